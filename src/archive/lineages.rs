//! Finding the lineages of a database, and what programs in the database's own pod need of one.

use bytes::Bytes;

use super::{
    Archive, Identity, Lineage, LineageId, PushError, PushOutcome, ReadError,
    fetch::Beginning,
    handle::{not_found, unavailable},
    sha256,
};
use crate::postgres::{SegmentName, SegmentSize};

impl Archive {
    /// The identity of each lineage of this database: a list, and a request per lineage.
    ///
    /// # Errors
    /// The store does not say definitely what there is.
    pub async fn lineages(&self) -> Result<Vec<Identity>, ReadError> {
        let root = self.root();
        let folders = self.objects.folders(&root).await;
        let folders = folders.map_err(|cause| unavailable(&root, cause))?;
        let mut found = Vec::new();
        for id in folders.iter().filter_map(|name| name.parse().ok()) {
            match self.lineage(id).identity().await {
                Ok(identity) => found.push(identity),
                // Nothing in it may be believed.
                Err(ReadError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What an earlier probe found: the store ignores the condition that an object be new. From now on it is looked first.
    pub fn look_first(&self) {
        self.objects.distrust();
    }

    /// Nobody could say yet whether the store heeds that condition: it is looked first until a probe finds that it does.
    pub fn look_first_until_probed(&self) {
        self.objects.doubt();
    }
}

impl LineageId {
    /// The id of a lineage that a cluster's own archive command begins: the same however many begin it at once.
    pub fn of_cluster(identifier: crate::postgres::SystemIdentifier) -> Self {
        let hash = sha256(format!("highwater lineage of {identifier}").as_bytes());
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&hash.as_bytes()[..10]);
        Self::from_random(bytes)
    }
}

impl Lineage {
    /// Whether there are parts of unfinished segments: listed, and kept in mind.
    ///
    /// # Errors
    /// The store does not say.
    pub async fn has_tails(&self) -> Result<bool, ReadError> {
        let mut unfinished = self.memory.unfinished.lock().await;
        let known = self.known_parts(unfinished.take()).await?;
        let any = known.values().any(|parts| !parts.is_empty());
        *unfinished = Some(known);
        Ok(any)
    }

    /// There were no parts of unfinished segments when it was last looked; whoever wrote some since compares them himself.
    pub async fn assume_no_tails(&self) {
        self.memory.unfinished.lock().await.get_or_insert_default();
    }

    /// What was known of parts is old: they are listed again.
    pub async fn forget_tails(&self) {
        *self.memory.unfinished.lock().await = None;
    }

    /// What the parts of an unfinished segment make up, with zeros up to a segment's size, and how many bytes are known.
    /// `None`: there are none.
    ///
    /// # Errors
    /// The store does not say, or the parts contradict each other.
    pub async fn fetch_tail(
        &self,
        name: SegmentName,
        size: SegmentSize,
    ) -> Result<Option<(Vec<u8>, u64)>, ReadError> {
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let Beginning {
            mut plain,
            overtaken: _,
        } = self.listed_tail(name, length).await?;
        let known = plain.len() as u64;
        plain.resize(length, 0);
        Ok((known > 0).then_some((plain, known)))
    }

    /// Archives a backup history file as PostgreSQL wrote it.
    ///
    /// # Errors
    /// Another file of that name lies there, or the store refuses.
    pub async fn push_backup_history(
        &self,
        file: &str,
        content: Bytes,
    ) -> Result<PushOutcome, PushError> {
        let key = self.layout.backup_history(file);
        self.create(&key, &sha256(&content), content.into()).await
    }

    /// A backup history file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn fetch_backup_history(&self, file: &str) -> Result<Bytes, ReadError> {
        let key = self.layout.backup_history(file);
        let stored = self.get(&key).await?.ok_or_else(|| not_found(&key))?;
        Ok(stored.bytes)
    }
}
