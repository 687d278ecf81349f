//! The archive, opened once and shared by the tasks.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    config::{Args, Config, same_archive},
    shared::Shared,
};
use crate::{
    api::StoreFindings,
    archive::{
        Archive, Findings, MountedSecrets, OpenError, ProbeError, PushError, ReadError,
        SKEW_TO_WARN_OF, store,
    },
    controller::context::Chain,
};

/// Trouble with the archive, for a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// One word.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
}

impl Trouble {
    /// From an error and its reason.
    pub fn new(reason: &'static str, error: &dyn std::error::Error) -> Self {
        let message = Chain(error).to_string();
        Self { reason, message }
    }

    /// Without an error.
    pub fn said(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Self::new(error.reason(), &error)
    }
}

impl From<PushError> for Trouble {
    fn from(error: PushError) -> Self {
        Self::new(error.reason(), &error)
    }
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Self::new(error.reason(), &error)
    }
}

impl From<ProbeError> for Trouble {
    fn from(error: ProbeError) -> Self {
        Self::new(error.reason(), &error)
    }
}

/// Says what the store is like: in status, and what it lacks in the log and as a number too.
pub fn found(shared: &Shared, findings: &Findings) {
    let status = findings.status();
    let StoreFindings {
        create_only,
        metadata,
        clock_skew_seconds,
    } = status;
    tracing::info!(create_only, metadata, clock_skew_seconds, "tried the store");
    if !create_only {
        tracing::warn!(
            "the store overwrites what it is told not to: two writers could replace each other's objects"
        );
        shared.metrics.error("StoreOverwrites");
    }
    if findings.clock_skew.abs() >= SKEW_TO_WARN_OF {
        tracing::warn!(
            clock_skew_seconds,
            "the store's clock and ours differ: it may refuse what is signed with our time"
        );
        shared.metrics.error("ClockSkewed");
    }
    shared
        .reporter
        .edit(|report| report.store_findings = Some(status));
}

/// Opens the archive when it is first asked for, and again when its place changes.
pub struct Stores {
    secrets: MountedSecrets,
    open: Mutex<Option<(Config, Arc<Archive>)>>,
}

impl Stores {
    /// From the arguments.
    pub fn new(args: &Args) -> Self {
        Self {
            secrets: MountedSecrets {
                credentials: args.archive_credentials.clone(),
                ca_file: args.archive_ca.clone(),
                directory: args.archive_directory.clone(),
            },
            open: Mutex::new(None),
        }
    }

    /// The archive of `config`.
    ///
    /// # Errors
    /// Credentials or certificate cannot be read, or make no sense.
    pub fn archive(&self, config: &Config) -> Result<Arc<Archive>, Trouble> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, archive)) = &*open
            && same_archive(known, config)
        {
            return Ok(archive.clone());
        }
        let store = store::open(&config.store, &self.secrets)?;
        let archive = Arc::new(Archive::new(store, &config.store, &config.archive_name)?);
        *open = Some((config.clone(), archive.clone()));
        Ok(archive)
    }

    /// Opens anew next time: credentials may have been rotated.
    pub fn forget(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
