//! Whether a store can be used: found by using it.

use bytes::Bytes;
use object_store::{Error as StoreError, path::Path};

use super::{
    Archive, Fault, ProbeError,
    objects::{Objects, Put},
    sha256,
};
use crate::retry::Policy;

impl Archive {
    /// Writes an object, reads it back, lists it and deletes it: bucket, credentials, network. Also finds out whether the
    /// store heeds the condition that an object be new; where it does not, pushes look first
    /// (see [`Archive::creates_only`]).
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub async fn probe(&self) -> Result<(), ProbeError> {
        // One try each: who asks wants to know now.
        let objects = self.objects.clone().with_policy(Policy::ONCE);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| ProbeError::Random(error.to_string()))?;
        let folder = self.probes();
        let key = folder.clone().join(format!("{}.txt", hex::encode(random)));
        let probe = Probe { objects, key };
        let result = probe.run(&folder).await;
        // A probe that stays is harmless, and what failed before says more.
        let deleted = probe.objects.delete(vec![probe.key.clone()]).await;
        if !result? {
            tracing::warn!(
                "the store ignores If-None-Match: two writers could overwrite each other"
            );
            self.objects.distrust();
        }
        deleted.map_err(|error| probe.failed("delete", error))
    }
}

struct Probe {
    objects: Objects,
    key: Path,
}

impl Probe {
    fn failed(&self, verb: &'static str, cause: StoreError) -> ProbeError {
        ProbeError::Store {
            verb,
            key: self.key.to_string(),
            fault: Fault::of(&cause),
            cause,
        }
    }

    /// Whether the store heeds the condition that an object be new.
    async fn run(&self, folder: &Path) -> Result<bool, ProbeError> {
        let first = Bytes::from_static(b"highwater can write and read here\n");
        let second = Bytes::from_static(b"this store overwrites what it is told not to\n");
        let create = async |content: &Bytes| {
            let hash = sha256(content);
            let put = self
                .objects
                .create(&self.key, &hash, content.clone().into());
            put.await.map_err(|error| self.failed("write", error))
        };
        create(&first).await?;
        let heeds = create(&second).await? == Put::Exists;
        let read = self.objects.get(&self.key).await;
        let read = read.map_err(|error| self.failed("read", error))?.bytes;
        let expected = if heeds { first } else { second };
        if read != expected {
            return Err(ProbeError::Different(self.key.to_string()));
        }
        let listed = self.objects.list(folder).await;
        let listed = listed.map_err(|error| self.failed("list", error))?;
        match listed.iter().any(|object| object.location == self.key) {
            true => Ok(heeds),
            false => Err(ProbeError::NotListed(self.key.to_string())),
        }
    }
}
