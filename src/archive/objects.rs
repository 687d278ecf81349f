//! Requests to a store, tried again where that is safe.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, GetResult, GetResultPayload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};

use super::{Fault, Findings, Patience};
use crate::{
    buffers::Buffers,
    retry::{self, Failure, Policy},
};

/// The name of the metadata with the plain content's SHA-256, on stores that keep metadata.
const HASH: &str = "sha256";

/// More than the header of an encrypted object: sixteen long RSA keys take 12 KiB.
const BEGINNING: u64 = 64 << 10;

/// A store and what was found out about it.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    policy: Policy,
    patience: Patience,
    /// The store keeps no metadata.
    plain: Arc<AtomicBool>,
    /// The store ignores the condition that an object be new, and overwrites.
    overwrites: Arc<AtomicBool>,
    /// It was found to do so once: a probe that sees nothing of it proves nothing.
    distrusted: Arc<AtomicBool>,
    /// For what is read.
    buffers: Buffers,
}

/// An object as it lies there.
pub(super) struct Stored {
    pub bytes: Bytes,
    /// SHA-256 of the plain content, where the store keeps metadata.
    pub sha256: Option<String>,
}

/// Whether a new object was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It was.
    Created,
    /// There was one; perhaps this one, by a try whose answer was lost.
    Exists,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            policy: Policy::REQUEST,
            patience: Patience::REQUEST,
            plain: Arc::default(),
            overwrites: Arc::default(),
            distrusted: Arc::default(),
            buffers: Buffers::default(),
        }
    }

    pub(super) fn with_buffers(self, buffers: Buffers) -> Self {
        Self { buffers, ..self }
    }

    pub(super) fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    pub(super) const fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The same store, of which nothing is known.
    pub(super) fn unknown(&self) -> Self {
        Self {
            policy: self.policy,
            patience: self.patience,
            buffers: self.buffers.clone(),
            ..Self::new(self.store.clone())
        }
    }

    /// From now on what the store lacks is made up for.
    pub(super) fn learn(&self, findings: &Findings) {
        let Findings {
            create_only,
            metadata,
            clock_skew: _,
        } = findings;
        self.overwrites.store(!create_only, Ordering::Relaxed);
        self.plain.store(!metadata, Ordering::Relaxed);
    }

    /// The store overwrites although it is told not to, as was found before.
    pub(super) fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }

    /// Nobody knows whether the store overwrites, until it is probed.
    pub(super) fn doubt(&self) {
        self.overwrites.store(true, Ordering::Relaxed);
    }

    /// Whether the store itself keeps two writers from overwriting each other.
    pub(super) fn creates_only(&self) -> bool {
        !self.overwrites.load(Ordering::Relaxed) && !self.distrusted.load(Ordering::Relaxed)
    }

    pub(super) async fn get(&self, key: &Path) -> Result<Stored, StoreError> {
        self.again(|| async {
            let result = self.within(0, self.store.get(key)).await?;
            let (sha256, size) = (self.hash_of(&result.attributes), result.meta.size);
            let bytes = self.within(size, self.collected(result)).await?;
            Ok(Stored { bytes, sha256 })
        })
        .await
    }

    async fn collected(&self, result: GetResult) -> Result<Bytes, StoreError> {
        let size = usize::try_from(result.meta.size).unwrap_or_default();
        let mut pieces = match result.payload {
            GetResultPayload::Stream(pieces) => pieces,
            // It is read in one go.
            GetResultPayload::File(..) => return result.bytes().await,
        };
        let mut whole = self.buffers.take();
        whole.reserve_exact(size);
        while let Some(piece) = pieces.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(self.buffers.lend(whole))
    }

    /// SHA-256 of the plain content, or the object where the store does not know it.
    pub(super) async fn hash(&self, key: &Path) -> Result<Result<String, Bytes>, StoreError> {
        if !self.plain.load(Ordering::Relaxed) {
            let head = || {
                self.within(
                    0,
                    self.store.get_opts(key, GetOptions::new().with_head(true)),
                )
            };
            if let Some(hash) = self.hash_of(&self.again(head).await?.attributes) {
                return Ok(Ok(hash));
            }
        }
        let Stored { bytes, sha256 } = self.get(key).await?;
        Ok(sha256.ok_or(bytes))
    }

    /// Where the store mixes up metadata, none is better.
    fn hash_of(&self, attributes: &Attributes) -> Option<String> {
        let value = attributes.get(&Attribute::Metadata(HASH.into()))?;
        let known = !self.plain.load(Ordering::Relaxed);
        known.then(|| value.as_ref().to_owned())
    }

    /// The first bytes of an object, at most [`BEGINNING`].
    pub(super) async fn beginning(&self, key: &Path) -> Result<Bytes, StoreError> {
        self.again(|| async {
            let options = GetOptions {
                range: Some((0..BEGINNING).into()),
                ..GetOptions::default()
            };
            let read = async { self.store.get_opts(key, options).await?.bytes().await };
            self.within(0, read).await
        })
        .await
    }

    /// All objects below a folder, by key.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = self.again(|| self.collect(self.store.list(Some(folder))));
        listed.await.map(by_key)
    }

    /// The same, of those whose keys come after `offset`.
    pub(super) async fn list_from(
        &self,
        folder: &Path,
        offset: &Path,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let list = || self.collect(self.store.list_with_offset(Some(folder), offset));
        self.again(list).await.map(by_key)
    }

    async fn collect(
        &self,
        mut listed: BoxStream<'static, Result<ObjectMeta, StoreError>>,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut objects = Vec::new();
        while let Some(object) = self.within(0, listed.try_next()).await? {
            objects.push(object);
        }
        Ok(objects)
    }

    /// The names of the folders directly in a folder.
    pub(super) async fn folders(&self, folder: &Path) -> Result<Vec<String>, StoreError> {
        let listed = || self.within(0, self.store.list_with_delimiter(Some(folder)));
        let folders = self.again(listed).await?.common_prefixes;
        let names = folders.iter().filter_map(|folder| folder.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// Puts an object unless there is one.
    pub(super) async fn create(
        &self,
        key: &Path,
        sha256: &str,
        payload: PutPayload,
    ) -> Result<Put, StoreError> {
        let create = || self.create_once(key, sha256, payload.clone());
        if self.creates_only() {
            return self.again(create).await;
        }
        match self.again(|| self.within(0, self.store.head(key))).await {
            Ok(_) => return Ok(Put::Exists),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.again(create).await? {
            Put::Exists => Ok(Put::Exists),
            // Between the two another may have put its own, and one of them is gone.
            Put::Created => match self.hash(key).await? {
                Ok(hash) if hash == sha256 => Ok(Put::Created),
                Err(bytes) if bytes == Bytes::from(payload.clone()) => Ok(Put::Created),
                Ok(_) | Err(_) => Ok(Put::Exists),
            },
        }
    }

    /// As [`Self::create`], in one try and without a look.
    pub(super) async fn create_once(
        &self,
        key: &Path,
        sha256: &str,
        payload: PutPayload,
    ) -> Result<Put, StoreError> {
        let length = payload.content_length() as u64;
        let put = |options: PutOptions| {
            let put = self.store.put_opts(key, payload.clone(), options);
            self.within(length, put)
        };
        let mut options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        if !self.plain.load(Ordering::Relaxed) {
            let hash = Attribute::Metadata(HASH.into());
            options.attributes.insert(hash, sha256.to_owned().into());
            match put(options.clone()).await {
                Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {}
                put => return created(put.map(|_| ())),
            }
            self.plain.store(true, Ordering::Relaxed);
            options.attributes = Attributes::new();
        }
        created(put(options).await.map(|_| ()))
    }

    /// Puts an object that may change.
    pub(super) async fn overwrite(&self, key: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let length = bytes.len() as u64;
        self.again(|| async {
            let put = self.store.put(key, bytes.clone().into());
            self.within(length, put).await.map(|_| ())
        })
        .await
    }

    /// Deletes; what is gone already is no error.
    pub(super) async fn delete(&self, keys: Vec<Path>) -> Result<(), StoreError> {
        self.again(|| async {
            let keys = stream::iter(keys.clone().into_iter().map(Ok)).boxed();
            let mut deleted = self.store.delete_stream(keys);
            loop {
                match self.within(0, deleted.try_next()).await {
                    Ok(Some(_)) | Err(StoreError::NotFound { .. }) => {}
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        })
        .await
    }

    /// Gives up a request that takes too long for the bytes that go with it. It may have been carried out.
    async fn within<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.patience.of(bytes);
        match tokio::time::timeout(limit, request).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Generic {
                store: "archive",
                source: format!("no answer within {} s", limit.as_secs_f32()).into(),
            }),
        }
    }

    async fn again<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        retry::run(self.policy, || {
            let tried = attempt();
            async {
                tried.await.map_err(|error| match is_definite(&error) {
                    true => Failure::Permanent(error),
                    false => Failure::Transient(error),
                })
            }
        })
        .await
    }
}

fn by_key(mut objects: Vec<ObjectMeta>) -> Vec<ObjectMeta> {
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    objects
}

fn created(put: Result<(), StoreError>) -> Result<Put, StoreError> {
    match put {
        Ok(()) => Ok(Put::Created),
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Put::Exists),
        Err(error) => Err(error),
    }
}

/// Whether the same request would be answered the same.
fn is_definite(error: &StoreError) -> bool {
    match error {
        StoreError::Generic { .. } | StoreError::JoinError { .. } => {
            matches!(
                Fault::of(error),
                Fault::AccessDenied
                    | Fault::BucketNotFound
                    | Fault::CertificateNotTrusted
                    | Fault::ClockSkewed
            )
        }
        _ => true,
    }
}
