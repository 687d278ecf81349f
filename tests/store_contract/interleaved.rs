//! Two writers of one lineage whose codecs, and so whose keys, differ: in every order of their requests, and wherever one of
//! them is killed, one history stays, and every index entry has its segment.

use std::{fmt, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, IndexEntry, Lineage, PushError, PushOutcome, sha256},
    postgres::SegmentSize,
};
use object_store::{
    Attribute, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::suite::{identity, lineage_id, segment};

/// Lets requests go on one by one.
#[derive(Clone, Debug)]
struct Gate {
    turns: Arc<Semaphore>,
    asked: Arc<watch::Sender<usize>>,
}

impl Gate {
    fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(0)),
            asked: Arc::new(watch::Sender::new(0)),
        }
    }

    async fn turn(&self) {
        self.asked.send_modify(|asked| *asked += 1);
        self.turns.acquire().await.unwrap().forget();
    }

    /// `stream`, begun when its turn comes.
    fn hold<T: Send + 'static>(
        &self,
        stream: impl FnOnce() -> BoxStream<'static, T> + Send + 'static,
    ) -> BoxStream<'static, T> {
        let gate = self.clone();
        let begun = async move {
            gate.turn().await;
            stream()
        };
        futures::stream::once(begun).flatten().boxed()
    }
}

/// A store whose requests wait for their turn.
#[derive(Debug)]
struct Turns {
    inner: Arc<InMemory>,
    gate: Gate,
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("turns")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Turns {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.gate.turn().await;
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
        self.gate.turn().await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        self.gate.hold(move || inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        self.gate.hold(move || inner.list(prefix.as_ref()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What each of the two archives under the same name.
const CONTENTS: [(&str, u8); 2] = [("zstd", 1), ("lz4", 2)];

fn lineage(store: Arc<dyn ObjectStore>, codec: &str) -> Lineage {
    let spec = json!({
        "directory": { "persistentVolumeClaim": "archive" },
        "compression": { "algorithm": codec },
    });
    let spec: PgArchiveSpec = serde_json::from_value(spec).unwrap();
    let archive = Archive::new(store, &spec, "shop-orders").unwrap();
    archive.lineage(lineage_id("0123456789"))
}

async fn push(lineage: &Lineage, byte: u8) -> Result<PushOutcome, PushError> {
    let plain = vec![byte; 1024];
    let entry = IndexEntry::of(segment(3), SegmentSize::DEFAULT, &plain);
    lineage.push_segment(segment(3), plain.into(), &entry).await
}

type Pushed = Result<PushOutcome, PushError>;

/// A writer whose requests wait for their turn.
struct Writer {
    gate: Gate,
    asked: watch::Receiver<usize>,
    granted: usize,
    task: JoinHandle<Pushed>,
    ended: Option<Pushed>,
}

impl Writer {
    fn start(store: &Arc<InMemory>, (codec, byte): (&str, u8)) -> Self {
        let gate = Gate::new();
        let turns = Turns {
            inner: store.clone(),
            gate: gate.clone(),
        };
        let lineage = lineage(Arc::new(turns), codec);
        Self {
            asked: gate.asked.subscribe(),
            gate,
            granted: 0,
            task: tokio::spawn(async move { push(&lineage, byte).await }),
            ended: None,
        }
    }

    /// Whether it waits for its turn; it has ended otherwise.
    async fn waits(&mut self) -> bool {
        let granted = self.granted;
        if self.ended.is_some() {
            return false;
        }
        tokio::select! {
            _ = self.asked.wait_for(|asked| *asked > granted) => true,
            ended = &mut self.task => {
                self.ended = ended.ok();
                false
            }
        }
    }

    fn go_on(&mut self) {
        self.granted += 1;
        self.gate.turns.add_permits(1);
    }
}

/// The hashes of the contents that lie under a name, and the one that the index speaks of.
async fn found(store: &InMemory) -> (Vec<String>, Option<String>) {
    let (mut contents, mut said) = (Vec::new(), None);
    let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    for ObjectMeta { location, .. } in listed {
        let object = store.get(&location).await.unwrap();
        if location.as_ref().contains("/wal/") {
            let key = Attribute::Metadata("sha256".into());
            let sha256 = object.attributes.get(&key).unwrap();
            contents.push(sha256.to_string());
        } else if location.as_ref().contains("/index/") {
            let entry = object.bytes().await.unwrap();
            let entry: IndexEntry = serde_json::from_slice(&entry).unwrap();
            said = Some(entry.sha256);
        }
    }
    (contents, said)
}

fn spoken_of((contents, said): &(Vec<String>, Option<String>)) -> bool {
    said.as_ref().is_none_or(|said| contents.contains(said))
}

/// Runs both in the order that `choices` begins, the first that can go on after that; the second one is killed before its
/// request number `killed`. How many could have gone on at each step.
async fn run(choices: &[usize], killed: usize) -> Vec<usize> {
    let store = Arc::new(InMemory::new());
    let free = CONTENTS.map(|(codec, byte)| (lineage(store.clone(), codec), byte));
    free[0]
        .0
        .create_identity(&identity(&free[0].0))
        .await
        .unwrap();
    let mut writers = CONTENTS.map(|content| Writer::start(&store, content));
    let mut alternatives = Vec::new();
    loop {
        let second = &mut writers[1];
        if !second.task.is_finished() && second.granted == killed && second.waits().await {
            second.task.abort();
            let _ = (&mut second.task).await;
        }
        let mut waiting = Vec::new();
        for (index, writer) in writers.iter_mut().enumerate() {
            if !writer.task.is_finished() && writer.waits().await {
                waiting.push(index);
            }
        }
        if waiting.is_empty() {
            break;
        }
        let choice = choices.get(alternatives.len()).copied().unwrap_or(0);
        alternatives.push(waiting.len());
        let chosen = &mut writers[waiting[choice]];
        chosen.go_on();
        chosen.waits().await;
    }
    let at = (choices, killed);
    assert!(spoken_of(&found(&store).await), "{at:?}");
    // PostgreSQL asks again for what was not archived.
    let mut archived = Vec::new();
    for (lineage, byte) in &free {
        match push(lineage, *byte).await {
            Ok(_) => archived.push(sha256(&[*byte; 1024])),
            Err(PushError::Conflict { .. }) => {}
            Err(error) => panic!("{at:?}: {error}"),
        }
        assert!(spoken_of(&found(&store).await), "{at:?}");
    }
    let (contents, said) = found(&store).await;
    assert_eq!(contents, archived, "{at:?}: one content, the archived one");
    assert_eq!(said, archived.pop(), "{at:?}");
    for (writer, (_, byte)) in writers.iter().zip(CONTENTS) {
        let said_so = matches!(writer.ended, Some(Ok(_)));
        assert!(!said_so || contents == [sha256(&[byte; 1024])], "{at:?}");
    }
    alternatives
}

/// Every order of the requests of both; how many there are.
async fn all_orders(killed: usize) -> usize {
    let (mut path, mut orders) = (Vec::<(usize, usize)>::new(), 0);
    loop {
        let choices: Vec<usize> = path.iter().map(|(choice, _)| *choice).collect();
        let alternatives = run(&choices, killed).await;
        path.extend(
            alternatives
                .iter()
                .skip(path.len())
                .map(|count| (0, *count)),
        );
        orders += 1;
        while let Some((choice, count)) = path.pop() {
            if choice + 1 < count {
                path.push((choice + 1, count));
                break;
            }
        }
        if path.is_empty() {
            return orders;
        }
    }
}

#[tokio::test]
async fn no_order_of_two_writers_with_different_codecs_leaves_two_histories() {
    let whole = all_orders(usize::MAX).await;
    assert!(whole > 20, "{whole}");
    let mut orders = vec![whole];
    for killed in 0..12 {
        orders.push(all_orders(killed).await);
    }
    println!("{orders:?}");
    // Killed so late it has ended.
    assert_eq!(orders[12], whole);
}

/// What judges every order sees an entry that speaks of nothing, and a second content.
#[tokio::test]
async fn what_judges_the_orders_sees_both_mistakes() {
    let store = Arc::new(InMemory::new());
    let [ours, theirs] = CONTENTS.map(|(codec, byte)| (lineage(store.clone(), codec), byte));
    ours.0.create_identity(&identity(&ours.0)).await.unwrap();
    push(&ours.0, ours.1).await.unwrap();
    let (contents, said) = found(&store).await;
    assert_eq!(said, contents.first().cloned());
    let plain = vec![theirs.1; 1024];
    let entry = IndexEntry::of(segment(3), SegmentSize::DEFAULT, &plain);
    let beside = theirs.0.put_segment(segment(3), plain.into(), &entry);
    drop(beside.await.unwrap());
    assert_eq!(found(&store).await.0.len(), 2);
    let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    for object in listed {
        if object.location.as_ref().ends_with(".zst") {
            store.delete(&object.location).await.unwrap();
        }
    }
    assert!(!spoken_of(&found(&store).await));
}
