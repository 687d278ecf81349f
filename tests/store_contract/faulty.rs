//! A store that fails on demand.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::{StreamExt, stream::BoxStream};
use object_store::{
    Attribute, Attributes, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, memory::InMemory, path::Path,
};

/// What it does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every request fails, and nothing is done.
    Down,
    /// Every other request fails before anything is done.
    Flaky,
    /// Every first put of an object is done, but its answer is lost.
    LosesAnswers,
    /// Every first put of a new object is refused for the sake of another that is on its way there, and never comes.
    Busy,
    /// What a missing bucket looks like: nothing is found, lists fail.
    NoBucket,
    /// `PutMode::Create` overwrites.
    Overwrites,
    /// `PutMode::Create` looks first and writes then, and another may write between the two.
    LooksFirst,
    /// Metadata are taken and dropped.
    ForgetsMetadata,
    /// Objects come back with the metadata of others.
    MixesMetadata,
}

#[derive(Debug, Default)]
pub struct Faulty {
    pub inner: InMemory,
    fault: Mutex<Fault>,
    calls: AtomicU32,
    lost: Mutex<Vec<Path>>,
    puts: AtomicU32,
    lists: AtomicU32,
    gets: AtomicU32,
}

impl Faulty {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Puts, gets and lists since the last call.
    pub fn count(&self) -> (u32, u32, u32) {
        let take = |count: &AtomicU32| count.swap(0, Ordering::Relaxed);
        (take(&self.puts), take(&self.gets), take(&self.lists))
    }

    fn now(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn begin(&self) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.now() {
            Fault::Down => Err(failure()),
            Fault::Flaky if call.is_multiple_of(2) => Err(failure()),
            _ => Ok(()),
        }
    }

    fn is_first(&self, fault: Fault, location: &Path) -> bool {
        let mut lost = self.lost.lock().unwrap();
        let first = self.now() == fault && !lost.contains(location);
        if first {
            lost.push(location.clone());
        }
        first
    }
}

fn failure() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection reset by peer".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.begin()?;
        if self.is_first(Fault::Busy, location) {
            return Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "ConditionalRequestConflict".into(),
            });
        }
        match self.now() {
            Fault::NoBucket => {
                return Err(Error::NotFound {
                    path: location.to_string(),
                    source: "NoSuchBucket".into(),
                });
            }
            Fault::Overwrites => options.mode = PutMode::Overwrite,
            Fault::LooksFirst if self.inner.head(location).await.is_err() => {
                tokio::task::yield_now().await;
                options.mode = PutMode::Overwrite;
            }
            Fault::ForgetsMetadata => options.attributes = Attributes::new(),
            Fault::MixesMetadata => {
                let other = Attribute::Metadata("sha256".into());
                options.attributes.insert(other, "0".repeat(64).into());
            }
            _ => {}
        }
        let put = self.inner.put_opts(location, payload, options).await;
        if self.is_first(Fault::LosesAnswers, location) {
            Err(failure())
        } else {
            put
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.begin()?;
        if self.now() == Fault::NoBucket {
            return Err(Error::NotFound {
                path: location.to_string(),
                source: "NoSuchBucket".into(),
            });
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.begin() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        match (self.begin(), self.now()) {
            (Ok(()), Fault::NoBucket) => futures::stream::once(async { Err(failure()) }).boxed(),
            (Ok(()), _) => self.inner.list(prefix),
            (Err(error), _) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
