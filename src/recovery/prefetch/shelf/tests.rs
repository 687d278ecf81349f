use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
    postgres::{Lsn, TimelineId},
    recovery::fetch::{MountedPaths, SourceError},
};

const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};
const MIB: u64 = 1 << 20;

/// Hands out segments full of their own number, and remembers what it was asked for.
#[derive(Default)]
struct Numbers {
    asked: Mutex<Vec<u64>>,
    /// This one fails as often as the number says.
    fails: Mutex<(u64, u32)>,
    running: AtomicU64,
    most: AtomicU64,
}

fn number(name: SegmentName) -> u64 {
    name.start(SIZE).get() / MIB
}

#[async_trait]
impl WalSource for Numbers {
    async fn segment(&self, name: SegmentName, _: Lsn) -> Result<Vec<u8>, SourceError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push(number(name));
        let mut fails = self.fails.lock().unwrap();
        if fails.0 == number(name) && fails.1 > 0 {
            fails.1 -= 1;
            return Err(SourceError::NotFound);
        }
        Ok(vec![u8::try_from(number(name)).unwrap(); 1 << 20])
    }

    async fn history(&self, _: TimelineId) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::NotFound)
    }
}

/// Timeline 1 up to the middle of segment 5, timeline 2 up to 100 bytes of segment 9.
fn config() -> FetchConfig {
    let stretch = |timeline, begins, ends| Stretch {
        timeline: TimelineId::new(timeline).unwrap(),
        begins: Lsn::new(begins),
        ends: Lsn::new(ends),
    };
    let fork = 5 * MIB + MIB / 2;
    FetchConfig {
        archive: serde_json::from_value(serde_json::json!({})).unwrap(),
        mounted: MountedPaths {
            credentials: None,
            decryption: None,
            ca: None,
            directory: "/nowhere".into(),
        },
        plan: serde_json::from_value(serde_json::json!({
            "summary": "", "backup": "b", "backupKey": "k", "archive": "a", "archiveName": "n",
            "lineage": "0000000000", "timeline": 2, "walFrom": "0/100000", "walTo": "0/900064", "bytes": 1,
        }))
        .unwrap(),
        line: vec![stretch(1, 0, fork), stretch(2, fork, 9 * MIB + 100)],
        segment_size: SIZE,
        deadline_seconds: 1,
        progress: "/nowhere".into(),
        socket: None,
    }
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    let timeline = TimelineId::new(timeline).unwrap();
    SegmentName::containing(timeline, Lsn::new(number * MIB), SIZE)
}

fn shelf(most: usize) -> (Arc<Numbers>, Shelf) {
    let source = Arc::new(Numbers::default());
    let shelf = Shelf::new(source.clone(), Buffers::default(), &config(), most, 1 << 30);
    (source, shelf)
}

/// Until nothing is on its way any more.
async fn settled(shelf: &Shelf) -> Vec<u64> {
    let ready = || shelf.held().segments.values().all(|f| f.is_finished());
    while !ready() {
        tokio::task::yield_now().await;
    }
    shelf.held().segments.keys().map(|n| number(*n)).collect()
}

#[tokio::test]
async fn each_segment_of_the_way_is_fetched_once() {
    let (source, shelf) = shelf(4);
    for (timeline, n) in (1..5).map(|n| (1, n)).chain((5..10).map(|n| (2, n))) {
        let Some(Ready::Content(content)) = shelf.take(segment(timeline, n)).await else {
            panic!("{n}");
        };
        assert!(content.iter().all(|byte| u64::from(*byte) == n));
        assert!(settled(&shelf).await.len() <= 3);
        shelf.refill(segment(timeline, n));
        let held = settled(&shelf).await;
        assert_eq!(held, (n + 1..10).take(4).collect::<Vec<_>>());
    }
    let mut asked = source.asked.lock().unwrap().clone();
    asked.sort_unstable();
    assert_eq!(asked, (1..10).collect::<Vec<_>>());
    assert!((2..=4).contains(&source.most.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn one_segment_at_a_time_where_no_more_fit() {
    let (source, shelf) = shelf(1);
    for n in 1..4 {
        assert!(shelf.take(segment(1, n)).await.is_some());
        assert_eq!(settled(&shelf).await, [] as [u64; 0]);
        shelf.refill(segment(1, n));
        assert_eq!(settled(&shelf).await, [n + 1]);
    }
    assert_eq!(source.most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn backwards_nothing_is_fetched_that_is_not_asked_for() {
    let (source, shelf) = shelf(4);
    shelf.take(segment(1, 4)).await.unwrap();
    settled(&shelf).await;
    source.asked.lock().unwrap().clear();
    for n in [3, 2, 1] {
        assert!(shelf.take(segment(1, n)).await.is_some());
        assert_eq!(settled(&shelf).await, [] as [u64; 0]);
    }
    assert_eq!(*source.asked.lock().unwrap(), [3, 2, 1]);
    // Forwards again.
    shelf.take(segment(1, 2)).await.unwrap();
    assert_eq!(settled(&shelf).await, [3, 4, 5]);
}

#[tokio::test]
async fn a_failure_is_neither_handed_out_nor_remembered() {
    let (source, shelf) = shelf(4);
    *source.fails.lock().unwrap() = (2, 1);
    shelf.take(segment(1, 1)).await.unwrap();
    settled(&shelf).await;
    assert!(shelf.take(segment(1, 2)).await.is_none());
    assert!(shelf.take(segment(1, 2)).await.is_some());
}

#[tokio::test]
async fn what_is_not_of_the_plan_is_not_fetched() {
    let (source, shelf) = shelf(4);
    for (timeline, n) in [(1, 6), (2, 10), (3, 7)] {
        assert!(shelf.take(segment(timeline, n)).await.is_none());
    }
    assert!(source.asked.lock().unwrap().is_empty());
}

/// Whether a file holds the segment of this number.
fn holds(mut file: File, number: u64) -> bool {
    use std::io::{Read as _, Seek as _};
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content.len() == 1 << 20 && content.iter().all(|byte| u64::from(*byte) == number)
}

#[tokio::test]
async fn files_are_filled_ahead_as_far_as_there_are_any() {
    let (_, shelf) = shelf(4);
    let files = || (0..2).map(|_| tempfile::tempfile().unwrap()).collect();
    shelf.put_by(files());
    let mut written = 0;
    for n in 1..5 {
        match shelf.take(segment(1, n)).await {
            Some(Ready::Written(file)) => {
                assert!(holds(file, n), "{n}");
                written += 1;
            }
            Some(Ready::Content(_)) => {}
            None => panic!("{n}"),
        }
    }
    assert_eq!(written, 2);
    // However many clients leave some, no more are kept than can be of use.
    for _ in 0..5 {
        shelf.put_by(files());
    }
    assert_eq!(lock(&shelf.spare).len(), 5);
}

/// What clients are given, where the file system knows files without a name and where it does not.
#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_a_name_the_file_holds_the_segment() {
    use super::super::{Files, Given, listen, request, serve};
    use std::time::Duration;
    let (_, shelf) = shelf(4);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = listen(&socket, None).unwrap();
    let serving = tokio::spawn(serve(listener, Arc::new(shelf)));
    for (n, named) in [(1, true), (2, true), (3, false), (4, false), (5, false)] {
        let name = if n < 5 { segment(1, n) } else { segment(2, n) };
        let (file, socket) = (tempfile::tempfile().unwrap(), socket.clone());
        let ours = file.try_clone().unwrap();
        let files = match named {
            true => Files::Named(file),
            false => Files::Unnamed(vec![file, tempfile::tempfile().unwrap()]),
        };
        let asked = move || request(&socket, name, &files, Duration::from_secs(60));
        let given = tokio::task::spawn_blocking(asked).await.unwrap();
        let file = match given.unwrap() {
            Some(Given::There) if named => ours,
            Some(Given::In(file)) if !named => file,
            other => panic!("{n}: {other:?}"),
        };
        assert!(holds(file, n), "{n}");
    }
    serving.abort();
}
