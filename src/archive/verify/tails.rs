//! Unfinished segments: their parts, each by itself, together, and beside the whole segment.

use object_store::{ObjectMeta, path::Path};

use super::super::{Encoding, ReadError, Records, contents::Tail, layout::TailName};
use super::{
    Problem, Subject,
    objects::{Content, Outcome, read},
    segments::{Found, carry_into, walk},
    wal::Walked,
};
use crate::postgres::SegmentName;

/// The beginning of a segment, as far as its parts make it up.
#[derive(Default)]
struct Beginning {
    plain: Vec<u8>,
    /// How far names lead; further than `plain` where a part could not be read for want of a key.
    reached: u64,
    locked: bool,
    /// A part is gone: they were merged, or the segment became whole.
    changed: bool,
}

/// Reads and checks the parts of every segment in scope that is not whole.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn verify(subject: &Subject<'_>, found: &mut Found) -> Result<(), ReadError> {
    for (name, parts) in &subject.inventory.tails {
        if subject.inventory.segments.contains_key(name) || !subject.in_scope(*name) {
            continue;
        }
        let beginning = assemble(subject, *name, parts).await?;
        if beginning.changed {
            let what = "it was replaced while it was verified: verify again to see the new one";
            subject.run.note(name, what);
            continue;
        }
        if let Some((_, _, first)) = parts.first() {
            conclude(subject, *name, &first.location, beginning, found).await?;
        }
    }
    Ok(())
}

async fn assemble(
    subject: &Subject<'_>,
    name: SegmentName,
    parts: &[(TailName, Encoding, ObjectMeta)],
) -> Result<Beginning, ReadError> {
    let mut beginning = Beginning::default();
    for (part, _, object) in parts {
        let key = &object.location;
        let content = match part_content(subject, part, object).await? {
            Outcome::Sound(content) => Some(content),
            Outcome::Gone => {
                beginning.changed = true;
                return Ok(beginning);
            }
            Outcome::Locked { .. } | Outcome::WrongKey => {
                beginning.locked = true;
                None
            }
            Outcome::Broken(_) => continue,
        };
        if part.from > beginning.reached {
            let size = subject.identity.segment_size;
            let at = name.start(size).advance(beginning.reached);
            let what = format!("the bytes before it are missing from {at} on");
            subject.run.find(Problem::TailDamaged, key, what);
            continue;
        }
        beginning.reached = beginning.reached.max(part.to);
        if let Some(content) = content
            && !beginning.add(part.from, &content)
        {
            let what = "it differs from another part of its segment";
            subject.run.find(Problem::TailDamaged, key, what);
        }
    }
    Ok(beginning)
}

impl Beginning {
    /// Whether the bytes agree with what is known, or go on from it.
    fn add(&mut self, from: u64, content: &[u8]) -> bool {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        if from > self.plain.len() {
            // What comes before it is locked.
            return true;
        }
        let known = self.plain.get(from..).unwrap_or_default();
        let (again, new) = content.split_at(known.len().min(content.len()));
        let same = again == known.get(..again.len()).unwrap_or_default();
        if same {
            self.plain.extend_from_slice(new);
        }
        same
    }
}

/// A part by itself; what is wrong with it is said.
async fn part_content(
    subject: &Subject<'_>,
    part: &TailName,
    object: &ObjectMeta,
) -> Result<Outcome<bytes::Bytes>, ReadError> {
    let key = &object.location;
    let limit = usize::try_from(subject.identity.segment_size.get()).unwrap_or(usize::MAX);
    let broken = |what: String| {
        subject.run.find(Problem::TailDamaged, key, what.clone());
        Outcome::Broken(what)
    };
    Ok(
        match read(subject.lineage, object, limit, subject.run).await? {
            Outcome::Sound(content)
                if content.plain.len() as u64 != part.to.saturating_sub(part.from) =>
            {
                broken("its length is not what its name says".to_owned())
            }
            Outcome::Sound(content) => Outcome::Sound(content.plain),
            Outcome::Broken(what) => broken(what),
            Outcome::WrongKey => {
                let what = "it is encrypted to another key";
                subject.run.find(Problem::KeyDoesNotFit, key, what);
                Outcome::WrongKey
            }
            Outcome::Gone => Outcome::Gone,
            Outcome::Locked { said } => Outcome::Locked { said },
        },
    )
}

/// Walks what the parts make up.
async fn conclude(
    subject: &Subject<'_>,
    name: SegmentName,
    first: &Path,
    beginning: Beginning,
    found: &mut Found,
) -> Result<(), ReadError> {
    let start = name.start(subject.identity.segment_size);
    let tail = match beginning.locked {
        true => {
            found.locked += 1;
            Tail {
                end: start.advance(beginning.reached),
                records: None,
                encrypted: true,
            }
        }
        false if beginning.plain.is_empty() => return Ok(()),
        false => walked(subject, name, first, beginning.plain, found).await?,
    };
    let committed = tail.records.and_then(|records| records.last_commit);
    found.commit(name.timeline(), committed);
    found.tails.insert(name, tail);
    Ok(())
}

async fn walked(
    subject: &Subject<'_>,
    name: SegmentName,
    first: &Path,
    plain: Vec<u8>,
    found: &Found,
) -> Result<Tail, ReadError> {
    let start = name.start(subject.identity.segment_size);
    let content = Content {
        plain: plain.into(),
        // Nothing says the hash of all parts together.
        sha256: String::new(),
    };
    let carry = carry_into(subject, name, None, found);
    let walked = walk(subject, name, first, &content, carry).await?;
    let Walked {
        scan,
        trouble,
        reached,
        ..
    } = walked;
    let mut end = start.advance(content.plain.len() as u64);
    let valid_end = scan.as_ref().map_or(start, |scan| scan.valid_end);
    if let Some(what) = trouble.filter(|_| !subject.is_left(name, reached)) {
        subject.run.find(Problem::TailDamaged, first, what);
        end = valid_end.min(end);
    }
    Ok(Tail {
        end,
        records: scan.map(|scan| Records {
            last_record: scan.last_record_start,
            last_commit: scan.last_commit,
        }),
        encrypted: false,
    })
}

/// Parts that lie beside their whole segment, `plain`: a crash left them, and they must be a part of it.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn beside(
    subject: &Subject<'_>,
    name: SegmentName,
    plain: &[u8],
) -> Result<(), ReadError> {
    let parts = subject.inventory.tails.get(&name);
    for (part, _, object) in parts.into_iter().flatten() {
        let Outcome::Sound(content) = part_content(subject, part, object).await? else {
            continue;
        };
        let range = usize::try_from(part.from)
            .ok()
            .zip(usize::try_from(part.to).ok());
        let ours = range.and_then(|(from, to)| plain.get(from..to));
        let key = &object.location;
        match ours == Some(&content[..]) {
            true => subject
                .run
                .note(key, "its segment is whole: it can be deleted"),
            false => {
                let what = "it differs from the whole segment: two histories in one lineage";
                subject.run.find(Problem::SegmentContradicted, key, what);
            }
        }
    }
    Ok(())
}
