//! Requests to a store, tried again where that is safe.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};

use super::Fault;
use crate::retry::{self, Failure, Policy};

/// The name of the metadata with the plain content's SHA-256, on stores that keep metadata.
const HASH: &str = "sha256";

/// More than the header of an encrypted object: sixteen long RSA keys take 12 KiB.
const BEGINNING: u64 = 64 << 10;

/// A store and what was found out about it.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    policy: Policy,
    /// The store keeps no metadata.
    plain: Arc<AtomicBool>,
    /// The store ignores the condition that an object be new, and overwrites.
    overwrites: Arc<AtomicBool>,
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
            plain: Arc::default(),
            overwrites: Arc::default(),
        }
    }

    pub(super) fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The store overwrites although it is told not to: from now on it is looked first.
    pub(super) fn distrust(&self) {
        self.overwrites.store(true, Ordering::Relaxed);
    }

    /// Whether the store itself keeps two writers from overwriting each other.
    pub(super) fn creates_only(&self) -> bool {
        !self.overwrites.load(Ordering::Relaxed)
    }

    pub(super) async fn get(&self, key: &Path) -> Result<Stored, StoreError> {
        self.again(|| async {
            let result = self.store.get(key).await?;
            let sha256 = hash_of(&result.attributes);
            let bytes = result.bytes().await?;
            Ok(Stored { bytes, sha256 })
        })
        .await
    }

    /// SHA-256 of the plain content, or the object where the store does not know it.
    pub(super) async fn hash(&self, key: &Path) -> Result<Result<String, Bytes>, StoreError> {
        self.again(|| async {
            let result = self.store.get(key).await?;
            match hash_of(&result.attributes) {
                Some(hash) => Ok(Ok(hash)),
                None => Ok(Err(result.bytes().await?)),
            }
        })
        .await
    }

    /// The first bytes of an object, at most [`BEGINNING`].
    pub(super) async fn beginning(&self, key: &Path) -> Result<Bytes, StoreError> {
        self.again(|| async {
            let options = GetOptions {
                range: Some((0..BEGINNING).into()),
                ..GetOptions::default()
            };
            self.store.get_opts(key, options).await?.bytes().await
        })
        .await
    }

    /// All objects below a folder, by key.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = || async { self.store.list(Some(folder)).try_collect::<Vec<_>>().await };
        let mut objects = self.again(listed).await?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    /// The names of the folders directly in a folder.
    pub(super) async fn folders(&self, folder: &Path) -> Result<Vec<String>, StoreError> {
        let listed = || self.store.list_with_delimiter(Some(folder));
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
        if !self.creates_only() {
            match self.again(|| self.store.head(key)).await {
                Ok(_) => return Ok(Put::Exists),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.again(|| self.create_once(key, sha256, payload.clone()))
            .await
    }

    async fn create_once(
        &self,
        key: &Path,
        sha256: &str,
        payload: PutPayload,
    ) -> Result<Put, StoreError> {
        let mut options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        if !self.plain.load(Ordering::Relaxed) {
            let hash = Attribute::Metadata(HASH.into());
            options.attributes.insert(hash, sha256.to_owned().into());
            match self
                .store
                .put_opts(key, payload.clone(), options.clone())
                .await
            {
                Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {}
                put => return created(put.map(|_| ())),
            }
            self.plain.store(true, Ordering::Relaxed);
            options.attributes = Attributes::new();
        }
        created(self.store.put_opts(key, payload, options).await.map(|_| ()))
    }

    /// Puts an object that may change.
    pub(super) async fn overwrite(&self, key: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.again(|| async { self.store.put(key, bytes.clone().into()).await.map(|_| ()) })
            .await
    }

    /// Deletes; what is gone already is no error.
    pub(super) async fn delete(&self, keys: Vec<Path>) -> Result<(), StoreError> {
        self.again(|| async {
            let keys = stream::iter(keys.clone().into_iter().map(Ok)).boxed();
            let mut deleted = self.store.delete_stream(keys);
            while let Some(result) = deleted.next().await {
                match result {
                    Ok(_) | Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .await
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

fn hash_of(attributes: &Attributes) -> Option<String> {
    let value = attributes.get(&Attribute::Metadata(HASH.into()))?;
    Some(value.as_ref().to_owned())
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
                Fault::AccessDenied | Fault::BucketNotFound | Fault::CertificateNotTrusted
            )
        }
        _ => true,
    }
}
