//! A verification under way: how far it is and what it has found, also for whoever ends it early.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{Finding, Note, Problem};

/// How far a verification is, and what it has found so far.
#[derive(Debug, Default)]
pub struct Run {
    objects: AtomicU64,
    objects_read: AtomicU64,
    bytes: AtomicU64,
    bytes_read: AtomicU64,
    findings: Mutex<Vec<Finding>>,
    notes: Mutex<Vec<Note>>,
    left_out: Mutex<Vec<String>>,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects to read, as far as they are listed.
    pub objects: u64,
    /// Objects that were read.
    pub objects_read: u64,
    /// Bytes of the objects to read, as they lie there.
    pub bytes: u64,
    /// The same of those that were read.
    pub bytes_read: u64,
}

impl Run {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Progress {
            objects: read(&self.objects),
            objects_read: read(&self.objects_read),
            bytes: read(&self.bytes),
            bytes_read: read(&self.bytes_read),
        }
    }

    /// What is wrong as far as is known, the worst first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = lock(&self.findings).clone();
        findings.sort();
        findings.dedup();
        findings
    }

    /// What else there is to know.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = lock(&self.notes).clone();
        notes.sort();
        notes.dedup();
        notes
    }

    /// What was in scope and could not be verified, and why.
    pub fn left_out(&self) -> Vec<String> {
        lock(&self.left_out).clone()
    }

    pub(super) fn leave_out(&self, what: String) {
        lock(&self.left_out).push(what);
    }

    pub(super) fn will_read(&self, objects: u64, bytes: u64) {
        self.objects.fetch_add(objects, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn has_read(&self, bytes: u64) {
        self.objects_read.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn find(&self, problem: Problem, object: impl ToString, what: impl Into<String>) {
        lock(&self.findings).push(Finding::new(problem, object, what));
    }

    pub(super) fn note(&self, object: impl ToString, what: impl Into<String>) {
        lock(&self.notes).push(Note {
            object: object.to_string(),
            what: what.into(),
        });
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
