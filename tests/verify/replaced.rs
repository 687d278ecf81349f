//! What is replaced between its listing and its reading is read again before anything is said of it.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use futures::{TryStreamExt, stream::BoxStream};
use highwater::{
    archive::{
        Archive, Contents,
        verify::{Problem, Run, Scope},
    },
    clock::{Clock, SystemClock},
    postgres::{SegmentName, TimelineId},
};
use jiff::SignedDuration;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};

use crate::fixture::{NAME, copy_into, spec};

/// A store in which a writer acts just before the first part of an unfinished segment is read.
#[derive(Debug, Default)]
struct Replacing {
    inner: InMemory,
    /// What the writer puts, when all parts go.
    next: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
}

impl Replacing {
    async fn act(&self) {
        let next = std::mem::take(&mut *self.next.lock().unwrap());
        if next.is_empty() {
            return;
        }
        for (path, payload, options) in next {
            self.inner.put_opts(&path, payload, options).await.unwrap();
        }
        for part in self.parts().await {
            self.inner.delete(&part).await.unwrap();
        }
    }

    async fn parts(&self) -> Vec<Path> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        let paths = all.into_iter().map(|object| object.location);
        let first = paths.filter(|path| path.as_ref().contains("/tail/00000001"));
        first.collect()
    }

    /// Takes an object away; the writer puts it again.
    async fn take(&self, path: Path) {
        let object = self.inner.get(&path).await.unwrap();
        let options = PutOptions {
            attributes: object.attributes.clone(),
            ..PutOptions::default()
        };
        let payload = object.bytes().await.unwrap().into();
        self.inner.delete(&path).await.unwrap();
        self.next.lock().unwrap().push((path, payload, options));
    }
}

impl fmt::Display for Replacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("replacing")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Replacing {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().contains("/tail/00000001") {
            self.act().await;
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An archive whose last segment is a beginning, until that is read: then a writer puts the whole.
async fn becoming_whole() -> (Arc<Replacing>, Contents, SegmentName) {
    let store = Arc::new(Replacing::default());
    let archive = Archive::new(store.clone(), &spec(), NAME).unwrap();
    let contents = copy_into(&archive).await;
    let (identity, size) = (contents.identity.clone(), contents.identity.segment_size);
    let stop = contents.backups[0].1.stop_lsn;
    let name = SegmentName::containing(TimelineId::FIRST, stop, size);
    let lineage = archive.lineage(identity.lineage.clone());
    let plain = lineage
        .fetch_segment(name, size, name.end(size))
        .await
        .unwrap();
    for object in store
        .inner
        .list(None)
        .try_collect::<Vec<_>>()
        .await
        .unwrap()
    {
        let path: &str = object.location.as_ref();
        if path.contains(&format!("/{name}.")) && !path.contains("/tail/") {
            store.take(object.location).await;
        }
    }
    let length = usize::try_from(size.offset(stop)).unwrap();
    lineage
        .push_tail(name, 0, &plain[..length], "e1", None)
        .await
        .unwrap();
    (store, contents, name)
}

/// What is found wrong with the backup if the writer puts the whole segment that a part is of, sound or not.
async fn found(damaged: bool) -> Vec<Problem> {
    let (store, Contents { identity, .. }, _) = becoming_whole().await;
    if damaged {
        let mut next = store.next.lock().unwrap();
        for (_, payload, _) in next
            .iter_mut()
            .filter(|(path, ..)| path.as_ref().contains("/wal/"))
        {
            *payload = PutPayload::from_static(b"no frame");
        }
    }
    let scope = Scope {
        lineage: None,
        timeline: None,
        from: None,
        to: None,
        parallel: std::num::NonZeroU8::MIN,
        // Nothing is excused for being new.
        now: SystemClock.now() + SignedDuration::from_hours(24),
    };
    let run = Run::default();
    // What another process remembers is of no use to this one.
    let archive = Archive::new(store.clone(), &spec(), NAME).unwrap();
    let lineage = archive.lineage(identity.lineage.clone());
    lineage.verify(&identity, &scope, &run).await.unwrap();
    assert!(store.next.lock().unwrap().is_empty(), "no writer acted");
    println!("{:#?}", run.findings());
    run.findings().iter().map(|found| found.problem).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_tail_became_whole_meanwhile_has_its_wal() {
    assert!(!found(false).await.contains(&Problem::BackupWithoutWal));
    // The control: what came instead is no WAL.
    assert!(found(true).await.contains(&Problem::BackupWithoutWal));
}

/// The log does not end where a part was that has become a whole segment meanwhile.
#[tokio::test]
async fn what_becomes_whole_while_it_is_read_is_there() {
    let (store, Contents { identity, .. }, name) = becoming_whole().await;
    let archive = Archive::new(store.clone(), &spec(), NAME).unwrap();
    let lineage = archive.lineage(identity.lineage.clone());
    let contents = lineage.contents().await.unwrap();
    assert!(store.next.lock().unwrap().is_empty(), "no writer acted");
    assert!(contents.segments.contains_key(&name), "{name} is not there");
    assert!(!contents.tails.contains_key(&name));
}
