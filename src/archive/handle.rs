//! An archive and a lineage in it: put, get, list.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, PutPayload, path::Path};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Encoder, Encoding, Identities, Identity, Layout, LineageId, OpenError, Patience, PushError,
    ReadError,
    codec::DecodeError,
    encryption::Notes,
    memory::Memory,
    objects::{Objects, Put, Stored},
    sha256,
};
use crate::{
    api::PgArchiveSpec,
    buffers::Buffers,
    retry::{self, Failure, Policy},
};

/// No object is longer: the largest segment is 1 GiB.
const LONGEST: usize = 1 << 30;

/// The part of a store that belongs to one database.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) objects: Objects,
    prefix: String,
    archive_name: String,
    encoder: Encoder,
    identities: Identities,
    buffers: Buffers,
    memories: Arc<Mutex<BTreeMap<LineageId, Arc<Memory>>>>,
}

impl Archive {
    /// The database `archive_name` in the store that `spec` names.
    ///
    /// # Errors
    /// What is to be encrypted to is no public key.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        spec: &PgArchiveSpec,
        archive_name: &str,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            objects: Objects::new(store).with_patience(Patience::REQUEST.slowed(&spec.uploads())),
            prefix: spec.prefix.clone().unwrap_or_default(),
            archive_name: archive_name.to_owned(),
            encoder: Encoder::new(spec)?,
            identities: Identities::default(),
            buffers: Buffers::default(),
            memories: Arc::default(),
        })
    }

    /// Reads encrypted objects with these keys: for recovery only.
    #[must_use]
    pub fn with_identities(self, identities: Identities) -> Self {
        Self { identities, ..self }
    }

    /// Makes objects in `frames`, which whoever pushes much keeps. Default: in memory of their own.
    #[must_use]
    pub fn with_frames(self, frames: Buffers) -> Self {
        let encoder = self.encoder.with_buffers(frames);
        Self { encoder, ..self }
    }

    /// Reads objects into `objects` and has their plain content in `plain`, which whoever fetches much keeps: apart, as the
    /// one are smaller than the other. Default: in memory of their own.
    #[must_use]
    pub fn with_buffers(self, objects: Buffers, plain: Buffers) -> Self {
        Self {
            objects: self.objects.with_buffers(objects),
            buffers: plain,
            ..self
        }
    }

    /// Tries each request as `policy` says. Default: [`Policy::REQUEST`].
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        let objects = self.objects.with_policy(policy);
        Self { objects, ..self }
    }

    /// Waits for each answer as `patience` says. Default: [`Patience::REQUEST`].
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        let objects = self.objects.with_patience(patience);
        Self { objects, ..self }
    }

    /// Whether the store itself keeps two writers from overwriting each other; known after [`Self::probe`].
    pub fn creates_only(&self) -> bool {
        self.objects.creates_only()
    }

    /// The lineage `id`, whether or not it is there.
    pub fn lineage(&self, id: LineageId) -> Lineage {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Lineage {
            objects: self.objects.clone(),
            layout: Layout::new(&self.prefix, &self.archive_name, &id),
            encoder: self.encoder.clone(),
            identities: self.identities.clone(),
            buffers: self.buffers.clone(),
            memory: memories.entry(id.clone()).or_default().clone(),
            id,
        }
    }

    /// Where probes go. No lineage has this id.
    pub(super) fn probes(&self) -> Path {
        Path::from(format!("{}{}/probe", self.prefix, self.archive_name))
    }

    /// The folder that its lineages are in.
    pub(super) fn root(&self) -> Path {
        Path::from(format!("{}{}", self.prefix, self.archive_name))
    }
}

/// One lineage in an archive.
#[derive(Clone, Debug)]
pub struct Lineage {
    pub(super) objects: Objects,
    pub(super) layout: Layout,
    pub(super) encoder: Encoder,
    identities: Identities,
    buffers: Buffers,
    /// What was learnt about it, shared by all that one [`Archive`] hands out.
    pub(super) memory: Arc<Memory>,
    id: LineageId,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The object is new.
    Created,
    /// The same content was there already.
    AlreadyThere,
}

impl Lineage {
    /// Its id.
    pub fn id(&self) -> &LineageId {
        &self.id
    }

    /// Puts the identity object: nothing else may be put before it.
    ///
    /// # Errors
    /// Another identity lies there, or the store refuses.
    pub async fn create_identity(&self, identity: &Identity) -> Result<(), PushError> {
        let key = self.layout.identity();
        self.create_json(&key, identity).await.map(|_| ())
    }

    /// Whose archive it is.
    ///
    /// # Errors
    /// As [`ReadError`]. `NotFound` only if the store lists what there is and the identity object is not among it: a
    /// missing bucket and an unknown key id are `Unavailable`.
    pub async fn identity(&self) -> Result<Identity, ReadError> {
        let key = self.layout.identity();
        let missing = match self.objects.get(&key).await {
            Ok(Stored { bytes, .. }) => return parse(&key, &bytes),
            Err(error) => error,
        };
        if !matches!(missing, StoreError::NotFound { .. }) {
            return Err(unavailable(&key, missing));
        }
        let mut listed = self.list(&self.layout.root()).await?.into_iter();
        match listed.any(|object| object.location == key) {
            true => Err(unavailable(&key, missing)),
            false => Err(not_found(&key)),
        }
    }

    /// The object, or `None` if it is definitely not there: "not found" is believed only while the identity object can be
    /// read, as stores say the same of a missing bucket and of an unknown key id.
    pub(super) async fn get(&self, key: &Path) -> Result<Option<Stored>, ReadError> {
        match self.objects.get(key).await {
            Ok(stored) => Ok(Some(stored)),
            Err(missing @ StoreError::NotFound { .. }) => {
                self.believe(key, missing).await?;
                Ok(None)
            }
            Err(error) => Err(unavailable(key, error)),
        }
    }

    /// `Ok` if `missing` is to be believed.
    pub(super) async fn believe(&self, key: &Path, missing: StoreError) -> Result<(), ReadError> {
        match self.objects.get(&self.layout.identity()).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => Err(unavailable(key, missing)),
            Err(other) => Err(unavailable(key, other)),
        }
    }

    /// As [`Self::get`], parsed.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        key: &Path,
    ) -> Result<Option<T>, ReadError> {
        let stored = self.get(key).await?;
        stored.map(|stored| parse(key, &stored.bytes)).transpose()
    }

    /// All objects below a folder, by key.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, ReadError> {
        let listed = self.objects.list(folder).await;
        listed.map_err(|error| unavailable(folder, error))
    }

    /// Puts an object that must not exist with other content. `sha256` is of what readers get, `payload` is what lies
    /// there.
    pub(super) async fn create(
        &self,
        key: &Path,
        sha256: &str,
        payload: PutPayload,
    ) -> Result<PushOutcome, PushError> {
        let create = || async {
            let created = self.try_to_create(key, sha256, payload.clone()).await;
            created.map_err(|error| match error {
                // Refused for the sake of one that cannot be read: another writer's is on its way, and may come or not.
                PushError::Compare(ReadError::NotFound { .. }) => Failure::Transient(error),
                error => Failure::Permanent(error),
            })
        };
        retry::run(self.objects.policy(), create).await
    }

    async fn try_to_create(
        &self,
        key: &Path,
        sha256: &str,
        payload: PutPayload,
    ) -> Result<PushOutcome, PushError> {
        let lost = match self.objects.create(key, sha256, payload).await {
            Ok(Put::Created) => return Ok(PushOutcome::Created),
            Ok(Put::Exists) => None,
            Err(error) => Some(error),
        };
        // A lost answer may hide a success. What lies there decides.
        match (self.compare(key, sha256).await, lost) {
            (Ok(outcome), _) => Ok(outcome),
            (Err(conflict @ PushError::Conflict { .. }), _) => Err(conflict),
            (Err(_), Some(cause)) => Err(PushError::Unavailable {
                key: key.to_string(),
                cause,
            }),
            (Err(error), None) => Err(error),
        }
    }

    /// Whether what lies at `key` is what `ours` is the hash of.
    async fn compare(&self, key: &Path, ours: &str) -> Result<PushOutcome, PushError> {
        let theirs = self.hash(key).await;
        let theirs = theirs.map_err(|error| undecided(error, ours))?;
        let theirs = theirs.ok_or_else(|| not_found(key))?;
        match theirs == ours {
            true => Ok(PushOutcome::AlreadyThere),
            false => Err(PushError::Conflict {
                key: key.to_string(),
                ours: ours.to_owned(),
                theirs,
            }),
        }
    }

    /// SHA-256 of the plain content of an object; `None` if it is definitely not there. Of an encrypted one that says it
    /// nowhere in the clear only who has the key can know it.
    pub(super) async fn hash(&self, key: &Path) -> Result<Option<String>, ReadError> {
        match self.objects.hash(key).await {
            Ok(Ok(hash)) => Ok(Some(hash)),
            Ok(Err(bytes)) => {
                let stored = Stored {
                    bytes,
                    sha256: None,
                };
                match said_hash(key, &stored)? {
                    Some(hash) => Ok(Some(hash)),
                    None => Ok(Some(sha256(&self.decode(key, &stored, LONGEST)?))),
                }
            }
            Err(missing @ StoreError::NotFound { .. }) => {
                self.believe(key, missing).await.map(|()| None)
            }
            Err(error) => Err(unavailable(key, error)),
        }
    }

    /// The plain content of an object whose ending names its encoding, checked where its hash is said.
    pub(super) async fn get_plain(
        &self,
        key: &Path,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(stored) = self.get(key).await? else {
            return Ok(None);
        };
        self.plain(key, &stored, limit).map(Some)
    }

    /// Plain content, checked where its hash is said.
    pub(super) fn plain(
        &self,
        key: &Path,
        stored: &Stored,
        limit: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let plain = self.decode(key, stored, limit)?;
        match said_hash(key, stored)? {
            Some(expected) => check(key, &plain, &expected).map(|()| plain),
            None => Ok(plain),
        }
    }

    pub(super) fn decode(
        &self,
        key: &Path,
        stored: &Stored,
        limit: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let bytes = &stored.bytes;
        // The frame says how long the content is; a limit keeps a broken one from taking all memory.
        let limit = limit.min(LONGEST);
        match Encoding::of(key) {
            Some(encoding) => {
                let plain = self.buffers.take();
                encoding.decode(bytes, limit, &self.identities, plain)
            }
            None => Ok(bytes.to_vec()),
        }
        .map_err(|error| unreadable(key, error))
    }

    /// What an encrypted object says in the clear; `None` if it is definitely not there.
    pub(super) async fn notes(&self, key: &Path) -> Result<Option<Notes>, ReadError> {
        match self.objects.beginning(key).await {
            Ok(bytes) => {
                let notes = Notes::read(&bytes);
                notes.map(Some).map_err(|error| unreadable(key, error))
            }
            Err(missing @ StoreError::NotFound { .. }) => {
                self.believe(key, missing).await.map(|()| None)
            }
            Err(error) => Err(unavailable(key, error)),
        }
    }

    pub(super) async fn create_json<T: Serialize + Sync>(
        &self,
        key: &Path,
        value: &T,
    ) -> Result<PushOutcome, PushError> {
        let bytes = to_json(key, value)?;
        self.create(key, &sha256(&bytes), bytes.into()).await
    }

    /// Puts an object that may change.
    pub(super) async fn overwrite_json<T: Serialize + Sync>(
        &self,
        key: &Path,
        value: &T,
    ) -> Result<(), PushError> {
        let put = self.objects.overwrite(key, to_json(key, value)?).await;
        put.map_err(|cause| PushError::Unavailable {
            key: key.to_string(),
            cause,
        })
    }

    /// Deletes objects that others have replaced; what is gone already is no error.
    pub(super) async fn delete(&self, keys: Vec<Path>) -> Result<(), PushError> {
        let first = keys.first().map(Path::to_string).unwrap_or_default();
        let deleted = self.objects.delete(keys).await;
        deleted.map_err(|cause| PushError::Unavailable { key: first, cause })
    }
}

pub(super) fn not_found(key: &Path) -> ReadError {
    ReadError::NotFound {
        key: key.to_string(),
    }
}

pub(super) fn unavailable(key: &Path, cause: StoreError) -> ReadError {
    ReadError::Unavailable {
        key: key.to_string(),
        cause,
    }
}

pub(super) fn corrupt(key: &Path, what: impl Into<String>) -> ReadError {
    ReadError::Corrupt {
        key: key.to_string(),
        what: what.into(),
    }
}

/// SHA-256 of the plain content, as the store or the object itself says it.
pub(super) fn said_hash(key: &Path, stored: &Stored) -> Result<Option<String>, ReadError> {
    let encrypted = Encoding::of(key).is_some_and(|encoding| encoding.encrypted);
    if stored.sha256.is_some() || !encrypted {
        return Ok(stored.sha256.clone());
    }
    let notes = Notes::read(&stored.bytes).map_err(|error| unreadable(key, error))?;
    Ok(notes.sha256)
}

fn unreadable(key: &Path, error: DecodeError) -> ReadError {
    let key = key.to_string();
    match error {
        DecodeError::KeyMissing => ReadError::KeyMissing { key },
        DecodeError::KeyWrong => ReadError::KeyWrong { key },
        DecodeError::Broken(cause) => ReadError::Corrupt {
            key,
            what: cause.to_string(),
        },
    }
}

/// What keeps a content from being compared with `ours`. If nobody without a private key can know it, it counts as another.
pub(super) fn undecided(error: ReadError, ours: &str) -> PushError {
    match error {
        ReadError::KeyMissing { key } | ReadError::KeyWrong { key } => PushError::Conflict {
            key,
            ours: ours.to_owned(),
            theirs: "not known, as it is encrypted and says none".to_owned(),
        },
        error @ (ReadError::NotFound { .. }
        | ReadError::Unavailable { .. }
        | ReadError::Corrupt { .. }) => PushError::Compare(error),
    }
}

/// Whether `plain` is what `expected` is the hash of.
pub(super) fn check(key: &Path, plain: &[u8], expected: &str) -> Result<(), ReadError> {
    let found = sha256(plain);
    match found == expected {
        true => Ok(()),
        false => Err(corrupt(
            key,
            format!("SHA-256 is {found}, it was archived with {expected}"),
        )),
    }
}

fn parse<T: DeserializeOwned>(key: &Path, bytes: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(key, error.to_string()))
}

pub(super) fn to_json<T: Serialize>(key: &Path, value: &T) -> Result<Bytes, PushError> {
    let encoded = serde_json::to_vec_pretty(value);
    encoded.map(Bytes::from).map_err(|error| PushError::Encode {
        key: key.to_string(),
        what: error.to_string(),
    })
}
