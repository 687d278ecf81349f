//! An archive and a lineage in it: put, get, list.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Attribute, Attributes, Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, path::Path,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Encoder, Fault, Identity, Layout, LineageId, ProbeError, PushError, ReadError, sha256,
};
use crate::api::PgArchiveSpec;

/// The part of a store that belongs to one database.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    archive_name: String,
    encoder: Encoder,
}

impl Archive {
    /// The database `archive_name` in the store that `spec` names.
    pub fn new(store: Arc<dyn ObjectStore>, spec: &PgArchiveSpec, archive_name: &str) -> Self {
        Self {
            store,
            prefix: spec.prefix.clone().unwrap_or_default(),
            archive_name: archive_name.to_owned(),
            encoder: Encoder::new(spec.compression.as_ref()),
        }
    }

    /// Writes an object and reads it back: bucket, credentials, network.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let key = Path::from(format!("{}{}/probe", self.prefix, self.archive_name));
        let content = Bytes::from_static(b"highwater can write and read here\n");
        let failed = |verb| {
            let key = key.to_string();
            move |source: StoreError| ProbeError::Store {
                verb,
                key,
                fault: Fault::of(&source),
                source,
            }
        };
        self.store
            .put(&key, content.clone().into())
            .await
            .map_err(failed("write"))?;
        let read = self
            .store
            .get(&key)
            .await
            .map_err(failed("read"))?
            .bytes()
            .await
            .map_err(failed("read"))?;
        match read == content {
            true => Ok(()),
            false => Err(ProbeError::Different(key.to_string())),
        }
    }

    /// The lineage `id`, whether or not it is there.
    pub fn lineage(&self, id: LineageId) -> Lineage {
        let layout = Layout::new(&self.prefix, &self.archive_name, &id);
        Lineage {
            store: self.store.clone(),
            layout,
            encoder: self.encoder,
            id,
        }
    }
}

/// One lineage in an archive.
#[derive(Clone, Debug)]
pub struct Lineage {
    store: Arc<dyn ObjectStore>,
    pub(super) layout: Layout,
    pub(super) encoder: Encoder,
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

/// The name of the metadata with the plain content's SHA-256, on stores that keep metadata.
const HASH: &str = "sha256";

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
        self.create_json(&self.layout.identity(), identity)
            .await
            .map(|_| ())
    }

    /// Whose archive it is.
    ///
    /// # Errors
    /// As [`ReadError`]; `NotFound` is what the store says, which may mean the bucket.
    pub async fn identity(&self) -> Result<Identity, ReadError> {
        let key = self.layout.identity();
        let bytes = self.get_raw(&key).await.map_err(|source| match source {
            StoreError::NotFound { .. } => ReadError::NotFound {
                key: key.to_string(),
            },
            source => ReadError::Unavailable {
                key: key.to_string(),
                source,
            },
        })?;
        parse(&key, &bytes)
    }

    async fn get_raw(&self, key: &Path) -> Result<Bytes, StoreError> {
        self.store.get(key).await?.bytes().await
    }

    /// The object, or `None` if it is definitely not there: "not found" is believed only while the identity object can be
    /// read, as stores say the same of a missing bucket and of an unknown key id.
    pub(super) async fn get(&self, key: &Path) -> Result<Option<Bytes>, ReadError> {
        let unavailable = |source| ReadError::Unavailable {
            key: key.to_string(),
            source,
        };
        match self.get_raw(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(missing @ StoreError::NotFound { .. }) => {
                match self.get_raw(&self.layout.identity()).await {
                    Ok(_) => Ok(None),
                    Err(StoreError::NotFound { .. }) => Err(unavailable(missing)),
                    Err(other) => Err(unavailable(other)),
                }
            }
            Err(source) => Err(unavailable(source)),
        }
    }

    /// As [`Self::get`], parsed.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        key: &Path,
    ) -> Result<Option<T>, ReadError> {
        self.get(key)
            .await?
            .map(|bytes| parse(key, &bytes))
            .transpose()
    }

    /// All objects below a folder, by key.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, ReadError> {
        let listed: Result<Vec<ObjectMeta>, StoreError> =
            self.store.list(Some(folder)).try_collect().await;
        let mut objects = listed.map_err(|source| ReadError::Unavailable {
            key: folder.to_string(),
            source,
        })?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    /// Puts an object that must not exist with other content. `plain` is what readers get, `stored` what lies there.
    pub(super) async fn create(
        &self,
        key: &Path,
        plain: &[u8],
        stored: Bytes,
    ) -> Result<PushOutcome, PushError> {
        let hash = sha256(plain);
        match self.put_new(key, &hash, stored).await {
            Ok(()) => Ok(PushOutcome::Created),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                self.compare(key, &hash).await
            }
            // A lost answer may hide a success. What lies there decides.
            Err(source) => match self.compare(key, &hash).await {
                Ok(outcome) => Ok(outcome),
                Err(conflict @ PushError::Conflict { .. }) => Err(conflict),
                Err(_) => Err(PushError::Unavailable {
                    key: key.to_string(),
                    source,
                }),
            },
        }
    }

    async fn put_new(&self, key: &Path, hash: &str, stored: Bytes) -> Result<(), StoreError> {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(HASH.into()), hash.to_owned().into());
        let options = PutOptions {
            mode: PutMode::Create,
            attributes,
            ..PutOptions::default()
        };
        let payload = PutPayload::from_bytes(stored.clone());
        match self.store.put_opts(key, payload, options).await {
            // A directory keeps no metadata; the index has the hash.
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                let options = PutOptions {
                    mode: PutMode::Create,
                    ..PutOptions::default()
                };
                self.store
                    .put_opts(key, PutPayload::from_bytes(stored), options)
                    .await
                    .map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    /// Whether what lies at `key` is what `ours` is the hash of.
    async fn compare(&self, key: &Path, ours: &str) -> Result<PushOutcome, PushError> {
        let plain = self.get_plain(key, usize::MAX >> 1).await?;
        let plain = plain.ok_or_else(|| ReadError::NotFound {
            key: key.to_string(),
        })?;
        let theirs = sha256(&plain);
        match theirs == ours {
            true => Ok(PushOutcome::AlreadyThere),
            false => Err(PushError::Conflict {
                key: key.to_string(),
                ours: ours.to_owned(),
                theirs,
            }),
        }
    }

    /// The plain content of an object whose ending names its codec.
    pub(super) async fn get_plain(
        &self,
        key: &Path,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(stored) = self.get(key).await? else {
            return Ok(None);
        };
        let codec = key
            .extension()
            .and_then(super::Codec::from_extension)
            .unwrap_or(super::Codec::Raw);
        // The frame says how long the content is; a limit keeps a broken one from taking all memory.
        let limit = limit.min(1 << 30);
        let plain = codec.decode(&stored, limit);
        plain.map(Some).map_err(|error| ReadError::Corrupt {
            key: key.to_string(),
            what: error.to_string(),
        })
    }

    pub(super) async fn create_json<T: Serialize + Sync>(
        &self,
        key: &Path,
        value: &T,
    ) -> Result<PushOutcome, PushError> {
        let bytes = to_json(key, value)?;
        self.create(key, &bytes, bytes.clone()).await
    }

    /// Puts an object that may change.
    pub(super) async fn overwrite_json<T: Serialize + Sync>(
        &self,
        key: &Path,
        value: &T,
    ) -> Result<(), PushError> {
        let bytes = to_json(key, value)?;
        let put = self.store.put(key, bytes.into()).await;
        put.map(|_| ()).map_err(|source| PushError::Unavailable {
            key: key.to_string(),
            source,
        })
    }

    /// Deletes an object that others have replaced; one that is gone already is no error.
    pub(super) async fn delete(&self, key: &Path) -> Result<(), PushError> {
        match self.store.delete(key).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(source) => Err(PushError::Unavailable {
                key: key.to_string(),
                source,
            }),
        }
    }
}

fn parse<T: DeserializeOwned>(key: &Path, bytes: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|error| ReadError::Corrupt {
        key: key.to_string(),
        what: error.to_string(),
    })
}

fn to_json<T: Serialize>(key: &Path, value: &T) -> Result<Bytes, PushError> {
    let encoded = serde_json::to_vec_pretty(value);
    encoded.map(Bytes::from).map_err(|error| PushError::Encode {
        key: key.to_string(),
        what: error.to_string(),
    })
}
