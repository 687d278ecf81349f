//! Every whole segment: read in parallel, walked in the order of the log.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use object_store::{ObjectMeta, path::Path};
use tokio::sync::mpsc;

use super::super::{
    Encoding, IndexEntry, ReadError, Records,
    contents::{Segment, Tail},
    handle::unavailable,
};
use super::{
    Problem, Subject,
    histories::fork_trouble,
    index::differences,
    objects::{Content, Outcome, read},
    tails,
    wal::{Place, Walked},
};
use crate::postgres::{Lsn, SegmentName, TimelineId, wal::Carry};

/// Bytes of segments that are in memory at once, unless three segments are more.
const MEMORY: u64 = 128 << 20;

/// What was found in segments and tails, for judging the whole.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Segments that are what was archived.
    pub(super) segments: BTreeMap<SegmentName, Segment>,
    /// The ends of segments that the next one, a tail or another timeline's first one, needs.
    pub(super) carries: BTreeMap<SegmentName, Carry>,
    /// Segments that could not be read for want of a key.
    pub(super) locked: u64,
    /// Unfinished segments, as far as their parts go.
    pub(super) tails: BTreeMap<SegmentName, Tail>,
    /// The latest commit by timeline.
    pub(super) last_commits: BTreeMap<TimelineId, jiff::Timestamp>,
}

/// A segment's objects as they were read.
struct Loaded<'a> {
    name: SegmentName,
    copies: Vec<(&'a Path, bool, Outcome<Content>)>,
}

/// Reads and checks every segment in scope.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn verify(subject: &Subject<'_>) -> Result<Found, ReadError> {
    // While one is walked others are read; one is ready.
    let (sender, mut loaded) = mpsc::channel(1);
    let read = async move {
        let names = subject.inventory.segments.iter();
        let in_scope = names.filter(|(name, _)| subject.in_scope(**name));
        let mut reading = stream::iter(in_scope)
            .map(async |(name, objects)| load(subject, *name, objects).await)
            .buffered(at_once(subject));
        while let Some(segment) = reading.next().await {
            if sender.send(segment?).await.is_err() {
                break;
            }
        }
        Ok::<_, ReadError>(())
    };
    let walk = async {
        let mut found = Found::default();
        let wanted = wanted_carries(subject);
        let mut last: Option<(SegmentName, Carry)> = None;
        while let Some(segment) = loaded.recv().await {
            let name = segment.name;
            let carry = carry_into(subject, name, last.take(), &found);
            let carry = check(subject, segment, carry, &mut found).await?;
            if let Some(carry) = carry {
                if wanted.contains(&name) {
                    found.carries.insert(name, carry.clone());
                }
                last = Some((name, carry));
            }
        }
        Ok::<_, ReadError>(found)
    };
    let ((), found) = tokio::try_join!(read, walk)?;
    Ok(found)
}

/// How many segments are read at once: with the one that is ready and the one that is walked they fit into [`MEMORY`].
fn at_once(subject: &Subject<'_>) -> usize {
    let fit = MEMORY / subject.identity.segment_size.get();
    let fit = usize::try_from(fit.saturating_sub(2)).unwrap_or(1);
    fit.clamp(1, usize::from(subject.scope.parallel.get()))
}

async fn load<'a>(
    subject: &Subject<'_>,
    name: SegmentName,
    objects: &'a [(Encoding, ObjectMeta)],
) -> Result<Loaded<'a>, ReadError> {
    let length = usize::try_from(subject.identity.segment_size.get()).unwrap_or(usize::MAX);
    let mut copies = Vec::new();
    for (encoding, object) in objects {
        let outcome = match read(subject.lineage, object, length, subject.run).await? {
            Outcome::Sound(content) if content.plain.len() != length => {
                let found = content.plain.len();
                Outcome::Broken(format!("{found} bytes, want {length}"))
            }
            other => other,
        };
        copies.push((&object.location, encoding.encrypted, outcome));
    }
    Ok(Loaded { name, copies })
}

/// The segment before `name` as its log goes, on its timeline or on the one that it came of.
fn before(subject: &Subject<'_>, name: SegmentName) -> Option<SegmentName> {
    let size = subject.identity.segment_size;
    let start = name.start(size);
    let last = Lsn::new(start.get().checked_sub(1)?);
    let history = subject.histories.get(&name.timeline());
    let own = SegmentName::containing(name.timeline(), last, size);
    if subject.inventory.segments.contains_key(&own) {
        return Some(own);
    }
    let timeline = history?.timeline_at(last);
    Some(SegmentName::containing(timeline, last, size))
}

fn wanted_carries(subject: &Subject<'_>) -> BTreeSet<SegmentName> {
    let inventory = subject.inventory;
    let mut firsts: BTreeMap<TimelineId, SegmentName> = BTreeMap::new();
    for name in inventory.segments.keys() {
        firsts.entry(name.timeline()).or_insert(*name);
    }
    let needing = firsts.values().chain(inventory.tails.keys());
    needing.filter_map(|name| before(subject, *name)).collect()
}

/// What the end of the segment before leaves to `name`.
pub(super) fn carry_into(
    subject: &Subject<'_>,
    name: SegmentName,
    last: Option<(SegmentName, Carry)>,
    found: &Found,
) -> Option<Carry> {
    let previous = before(subject, name)?;
    match last {
        Some((known, carry)) if known == previous => Some(carry),
        Some(_) | None => found.carries.get(&previous).cloned(),
    }
}

/// Checks one segment; returns what it leaves to the next.
async fn check(
    subject: &Subject<'_>,
    Loaded { name, copies }: Loaded<'_>,
    carry: Option<Carry>,
    found: &mut Found,
) -> Result<Option<Carry>, ReadError> {
    let encrypted = copies.iter().all(|(_, encrypted, _)| *encrypted);
    let Some((key, content)) = one_of(subject, name, copies, found) else {
        return Ok(None);
    };
    let walked = walk(subject, name, key, &content, carry).await?;
    if subject.inventory.tails.contains_key(&name) {
        tails::beside(subject, name, &content.plain).await?;
    }
    say(subject, name, key, &content, &walked);
    let entry = subject.index.entries.get(&name);
    let other = entry.is_some_and(|(_, entry)| entry.sha256 != content.sha256);
    Ok(found.take(name, walked, other, encrypted))
}

/// Walks the WAL of a segment or of its beginning; says where it leaves another timeline than its history says.
///
/// # Errors
/// It could not be walked.
pub(super) async fn walk(
    subject: &Subject<'_>,
    name: SegmentName,
    key: &Path,
    content: &Content,
    carry: Option<Carry>,
) -> Result<Walked, ReadError> {
    let place = Place {
        name,
        size: subject.identity.segment_size,
        system_identifier: subject.identity.system_identifier,
    };
    let forks = subject.begins_in(name);
    let entry = subject.index.entries.get(&name);
    let entry = entry.map(|(_, entry)| entry.clone());
    let Content { plain, sha256 } = content.clone();
    let walk = move || {
        let walked = place.walk(&plain, &sha256, carry.as_ref(), entry.as_ref());
        let fork = forks.then(|| place.fork(&plain, carry.as_ref())).flatten();
        (walked, fork)
    };
    let walked = tokio::task::spawn_blocking(walk).await;
    let (walked, fork) =
        walked.map_err(|source| unavailable(key, object_store::Error::JoinError { source }))?;
    let history = subject.histories.get(&name.timeline());
    if let Some(what) = history.and_then(|history| fork_trouble(history, fork)) {
        subject.run.find(Problem::ForkWrong, key, what);
    }
    Ok(walked)
}

/// One sound copy; what is wrong with the others is a finding.
fn one_of<'a>(
    subject: &Subject<'_>,
    name: SegmentName,
    copies: Vec<(&'a Path, bool, Outcome<Content>)>,
    found: &mut Found,
) -> Option<(&'a Path, Content)> {
    let run = subject.run;
    let mut sound: Option<(&Path, Content)> = None;
    let mut hashes: BTreeMap<String, &Path> = BTreeMap::new();
    for (key, _, outcome) in copies {
        match outcome {
            Outcome::Sound(content) => {
                hashes.insert(content.sha256.clone(), key);
                // Of several the one that the index knows is walked.
                let known = subject.index.entries.get(&name);
                let archived = known.is_some_and(|(_, entry)| entry.sha256 == content.sha256);
                if archived || sound.is_none() {
                    sound = Some((key, content));
                }
            }
            Outcome::Broken(what) => run.find(Problem::SegmentDamaged, key, what),
            Outcome::Gone => {
                run.find(Problem::SegmentMissing, key, "it was listed, and is gone");
            }
            Outcome::WrongKey => {
                run.find(
                    Problem::KeyDoesNotFit,
                    key,
                    "it is encrypted to another key",
                );
            }
            Outcome::Locked { said } => {
                locked(subject, name, key, said.as_deref(), found);
                hashes.extend(said.map(|said| (said, key)));
            }
        }
    }
    if hashes.len() > 1 {
        let keys: Vec<String> = hashes.values().map(ToString::to_string).collect();
        let what = format!("{} hold different content", keys.join(" and "));
        run.find(Problem::SegmentContradicted, name, what);
    }
    sound
}

/// What can be checked without a key: whether the object says what the index says.
fn locked(
    subject: &Subject<'_>,
    name: SegmentName,
    key: &Path,
    said: Option<&str>,
    found: &mut Found,
) {
    found.locked += 1;
    let known = subject.index.entries.get(&name);
    if let (Some((_, entry)), Some(said)) = (known, said)
        && entry.sha256 != said
    {
        let what = format!("it says SHA-256 {said}, its index entry {}", entry.sha256);
        subject.run.find(Problem::EntryWrong, key, what);
    }
    let unread = Segment {
        valid_end: name.end(subject.identity.segment_size),
        records: None,
        ended: None,
        encrypted: true,
    };
    let known = known.map(|(_, entry)| Segment {
        encrypted: true,
        ..Segment::from(entry)
    });
    let segment = known.unwrap_or(unread);
    let committed = segment.records.and_then(|records| records.last_commit);
    found.commit(name.timeline(), committed);
    found.segments.insert(name, segment);
}

impl Found {
    pub(super) fn commit(&mut self, timeline: TimelineId, at: Option<jiff::Timestamp>) {
        let Some(at) = at else { return };
        let known = self.last_commits.entry(timeline).or_insert(at);
        *known = at.max(*known);
    }

    /// Takes a segment for what it is worth; returns what it leaves to the next. `other`: it is not what was archived.
    fn take(
        &mut self,
        name: SegmentName,
        walked: Walked,
        other: bool,
        encrypted: bool,
    ) -> Option<Carry> {
        let scan = walked.scan?;
        let counts = match (walked.trouble, &scan.carry) {
            (None, _) => true,
            // Sound in itself, and nothing leads to it.
            (Some(_), Some(_)) => false,
            (Some(_), None) => !other,
        };
        if counts {
            let records = Records {
                last_record: scan.last_record_start,
                last_commit: scan.last_commit,
            };
            self.commit(name.timeline(), scan.last_commit);
            let segment = Segment {
                valid_end: scan.valid_end,
                records: Some(records),
                ended: None,
                encrypted,
            };
            self.segments.insert(name, segment);
        }
        scan.carry
    }
}

/// Says what is wrong with a segment that was walked, or with its index entry.
fn say(subject: &Subject<'_>, name: SegmentName, key: &Path, content: &Content, walked: &Walked) {
    let run = subject.run;
    let entry = subject.index.entries.get(&name);
    match (&walked.trouble, entry) {
        (Some(what), Some((_, entry))) if entry.sha256 != content.sha256 => {
            let (found, want) = (&content.sha256, &entry.sha256);
            let what = format!("SHA-256 is {found}, it was archived with {want}; {what}");
            run.find(Problem::SegmentDamaged, key, what);
        }
        // PostgreSQL leaves a timeline in the middle of a segment, and nobody replays what lies behind. What lies before is
        // the new timeline's too, and must go on from the segment before.
        (Some(what), _) if subject.is_left(name, walked.reached) => {
            run.note(key, format!("{what}; a newer timeline left it before"));
        }
        (Some(what), _) => run.find(Problem::WalInvalid, key, what),
        (None, Some((at, entry))) => {
            if let Some(what) = contradicted(entry, content, walked) {
                run.find(Problem::EntryWrong, at, what);
            }
        }
        (None, None) => {}
    }
}

/// What an index entry says that the segment does not.
fn contradicted(entry: &IndexEntry, content: &Content, walked: &Walked) -> Option<String> {
    let wrong = match &entry.sha256_valid {
        Some(_) => walked
            .expected
            .iter()
            .map(|expected| differences(entry, expected, walked.joined))
            .min_by_key(Vec::len)?,
        // Nobody had read it: it says the least.
        None if entry.sha256 == content.sha256 => Vec::new(),
        None => vec!["sha256"],
    };
    (!wrong.is_empty()).then(|| {
        let segment = entry.segment;
        format!(
            "it says another {} than segment {segment} itself",
            wrong.join(", ")
        )
    })
}

impl Subject<'_> {
    /// Whether the timeline of `name` begins in the middle of it.
    pub(super) fn begins_in(&self, name: SegmentName) -> bool {
        let size = self.identity.segment_size;
        let history = self.histories.get(&name.timeline());
        let parent = history.and_then(|history| history.parent());
        parent.is_some_and(|parent| {
            let at = parent.switch_lsn;
            name.start(size) < at && at < name.end(size)
        })
    }

    /// Whether another timeline left that of `name` in this segment, before `end` or there.
    pub(super) fn is_left(&self, name: SegmentName, end: Lsn) -> bool {
        let start = name.start(self.identity.segment_size);
        let mut parents = self
            .histories
            .values()
            .filter_map(|history| history.parent());
        parents.any(|parent| {
            let at = parent.switch_lsn;
            parent.timeline == name.timeline() && start < at && at <= end
        })
    }
}
