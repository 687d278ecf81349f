//! Whether a store can be used, and what it is like: found by using it.

use bytes::Bytes;
use futures::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use object_store::{Error as StoreError, path::Path};

use super::{
    Archive, Fault, ProbeError,
    objects::{Objects, Put},
    sha256,
};
use crate::{api::StoreFindings, clock::Clock, retry::Policy};

/// How many write one object at the same time.
const CONTENDERS: u8 = 8;

/// From here on a store may refuse what is signed with our time; Amazon, Google and Microsoft do at 15 minutes.
pub const SKEW_TO_WARN_OF: SignedDuration = SignedDuration::from_mins(5);

/// What a store is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Of several that create one object, also at the same time, one wins.
    pub create_only: bool,
    /// Metadata that are put with an object come back with it.
    pub metadata: bool,
    /// How far the store's clock is ahead of ours, as far as can be told from when it says that an object was written.
    pub clock_skew: SignedDuration,
}

impl Findings {
    /// For status, where nothing may move without a reason.
    pub const fn status(&self) -> StoreFindings {
        StoreFindings {
            create_only: self.create_only,
            metadata: self.metadata,
            clock_skew_seconds: self.clock_skew.as_secs() / 60 * 60,
        }
    }
}

impl Archive {
    /// Writes an object, reads it back, lists it and deletes it: bucket, credentials, network. Also finds out what the
    /// store is like; what it lacks is made up for from now on.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub async fn probe(&self, clock: &dyn Clock) -> Result<Findings, ProbeError> {
        // One try each: who asks wants to know now.
        let objects = self.objects.unknown().with_policy(Policy::ONCE);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| ProbeError::Random(error.to_string()))?;
        let (folder, name) = (self.probes(), hex::encode(random));
        let probe = Probe {
            objects,
            alone: folder.clone().join(format!("{name}.txt")),
            contended: folder.clone().join(format!("{name}-contended.txt")),
            folder,
        };
        let result = probe.run(clock).await;
        // A probe that stays is harmless, and what failed before says more.
        let keys = vec![probe.alone.clone(), probe.contended.clone()];
        let deleted = probe.objects.delete(keys).await;
        let findings = result?;
        self.objects.learn(&findings);
        deleted.map_err(|error| failed("delete", &probe.alone, error))?;
        Ok(findings)
    }
}

struct Probe {
    objects: Objects,
    folder: Path,
    /// One writes it, then another tries to.
    alone: Path,
    /// Many write it at the same time.
    contended: Path,
}

fn failed(verb: &'static str, key: &Path, cause: StoreError) -> ProbeError {
    ProbeError::Store {
        verb,
        key: key.to_string(),
        fault: Fault::of(&cause),
        cause,
    }
}

fn content(contender: u8) -> Bytes {
    format!("highwater can write and read here ({contender})\n").into()
}

impl Probe {
    async fn run(&self, clock: &dyn Clock) -> Result<Findings, ProbeError> {
        let begin = clock.now();
        let first = self.create(&self.alone, 0).await;
        if first.map_err(|error| failed("write", &self.alone, error))? == Put::Exists {
            return Err(ProbeError::NotCreated(self.alone.to_string()));
        }
        // To the end, both: what is on its way when the probe is deleted would stay.
        let (metadata, modified) = join(self.read(), self.listed()).await;
        let (metadata, modified) = (metadata?, modified?);
        let clock_skew = skew(begin, clock.now(), modified);
        let second = self.create(&self.alone, 1).await;
        let heeds = second.map_err(|error| failed("write", &self.alone, error))? == Put::Exists;
        Ok(Findings {
            // Not where the answer is known: some such stores keep on writing after they have answered.
            create_only: heeds && self.one_wins().await?,
            metadata,
            clock_skew,
        })
    }

    async fn create(&self, key: &Path, contender: u8) -> Result<Put, StoreError> {
        let content = content(contender);
        let hash = sha256(&content);
        self.objects.create_once(key, &hash, content.into()).await
    }

    /// Whether the metadata are there.
    async fn read(&self) -> Result<bool, ProbeError> {
        let read = self.objects.get(&self.alone).await;
        let read = read.map_err(|error| failed("read", &self.alone, error))?;
        match read.bytes == content(0) {
            true => Ok(read.sha256 == Some(sha256(&read.bytes))),
            false => Err(ProbeError::Different(self.alone.to_string())),
        }
    }

    /// When it was written, by the store's clock.
    async fn listed(&self) -> Result<Timestamp, ProbeError> {
        let listed = self.objects.list(&self.folder).await;
        let listed = listed.map_err(|error| failed("list", &self.folder, error))?;
        let mut listed = listed.into_iter();
        let found = listed.find(|object| object.location == self.alone);
        let modified = found.and_then(|object| {
            Timestamp::from_millisecond(object.last_modified.timestamp_millis()).ok()
        });
        modified.ok_or_else(|| ProbeError::NotListed(self.alone.to_string()))
    }

    /// Whether the condition holds among writers at the same time: a store may look first and write then.
    async fn one_wins(&self) -> Result<bool, ProbeError> {
        let created = |contender| self.create(&self.contended, contender);
        let results = join_all((0..CONTENDERS).map(created)).await;
        let mut winners = Vec::new();
        let mut lost = None;
        for (contender, result) in (0..CONTENDERS).zip(results) {
            match result {
                Ok(Put::Created) => winners.push(contender),
                Ok(Put::Exists) => {}
                Err(error) => lost = Some(error),
            }
        }
        let winner = match (winners.as_slice(), lost) {
            ([winner], _) => *winner,
            ([], Some(error)) => return Err(failed("write", &self.contended, error)),
            ([], None) => return Err(ProbeError::NotCreated(self.contended.to_string())),
            (_, _) => return Ok(false),
        };
        let read = self.objects.get(&self.contended).await;
        let read = read.map_err(|error| failed("read", &self.contended, error))?;
        Ok(read.bytes == content(winner))
    }
}

/// How far a clock is ahead that said `modified` of what happened between `begin` and `end`. Stores tell whole seconds.
fn skew(begin: Timestamp, end: Timestamp, modified: Timestamp) -> SignedDuration {
    if modified < begin {
        modified.duration_since(begin)
    } else if modified > end {
        modified.duration_since(end)
    } else {
        SignedDuration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_is_from_the_nearer_end_and_cut_to_minutes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (modified, seconds, shown) in [
            (1000, 0, 0),
            (1007, 0, 0),
            (999, -1, 0),
            (1010 + 59, 59, 0),
            (1010 + 301, 301, 300),
            (1000 - 3600, -3600, -3600),
        ] {
            let clock_skew = skew(at(1000), at(1010), at(modified));
            assert_eq!(clock_skew, SignedDuration::from_secs(seconds));
            let findings = Findings {
                create_only: true,
                metadata: true,
                clock_skew,
            };
            assert_eq!(findings.status().clock_skew_seconds, shown);
        }
    }
}
