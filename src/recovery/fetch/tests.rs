use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::postgres::SegmentSize;

const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};
const MIB: u64 = 1 << 20;

/// Answers the same to everything, and counts.
struct Always(Result<Vec<u8>, SourceError>, AtomicU32);

#[async_trait]
impl WalSource for Always {
    async fn segment(&self, _: SegmentName, up_to: Lsn) -> Result<Vec<u8>, SourceError> {
        assert_eq!(up_to, Lsn::new(3 * MIB + 8));
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.clone()
    }

    async fn history(&self, _: TimelineId) -> Result<Vec<u8>, SourceError> {
        self.0.clone()
    }
}

fn config() -> FetchConfig {
    let line = vec![Stretch {
        timeline: TimelineId::FIRST,
        begins: Lsn::new(0),
        ends: Lsn::new(3 * MIB + 8),
    }];
    FetchConfig {
        archive: serde_json::from_value(serde_json::json!({})).unwrap(),
        mounted: MountedPaths {
            credentials: None,
            ca: None,
            decryption: None,
            directory: "/nowhere".into(),
        },
        plan: serde_json::from_value(serde_json::json!({
            "summary": "", "backup": "b", "backupKey": "k", "archive": "a", "archiveName": "n",
            "lineage": "0000000000", "timeline": 1, "walFrom": "0/100000", "walTo": "0/300008", "bytes": 1,
        }))
        .unwrap(),
        line,
        segment_size: SIZE,
        deadline_seconds: 1,
        progress: "/nowhere".into(),
        socket: None,
    }
}

struct Asked {
    outcome: Result<(), FetchError>,
    files: Vec<String>,
    progress: FetchProgress,
    calls: u32,
}

async fn ask(file: &str, answer: Result<Vec<u8>, SourceError>) -> Asked {
    let directory = tempfile::tempdir().unwrap();
    let source = Always(answer, AtomicU32::new(0));
    let args = Args {
        config: PathBuf::new(),
        file: file.to_owned(),
        destination: directory.path().join("RECOVERYXLOG"),
    };
    let mut progress = FetchProgress::default();
    let outcome = fetch(&source, &config(), &args, Instant::now(), &mut progress).await;
    let files = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    Asked {
        outcome,
        files,
        progress,
        calls: source.1.into_inner(),
    }
}

fn code(asked: &Asked) -> u8 {
    asked
        .outcome
        .as_ref()
        .map_or_else(FetchError::exit_code, |()| 0)
}

#[tokio::test]
async fn what_is_there_is_handed_out_whole() {
    let asked = ask("000000010000000000000002", Ok(vec![7; 1 << 20])).await;
    assert_eq!(
        (code(&asked), asked.files.as_slice()),
        (0, &["RECOVERYXLOG".to_owned()][..])
    );
    assert_eq!(asked.progress.reached, Some(Lsn::new(3 * MIB)));
    let last = ask("000000010000000000000003", Ok(vec![7; 1 << 20])).await;
    assert_eq!(last.progress.reached, Some(Lsn::new(3 * MIB + 8)));
}

#[tokio::test]
async fn past_the_plan_is_a_definite_end_that_needs_no_question() {
    let outage = Err(SourceError::Unavailable("down".into()));
    let asked = ask("000000010000000000000004", outage).await;
    assert_eq!((code(&asked), asked.calls), (1, 0));
    assert!(asked.files.is_empty());
}

#[tokio::test]
async fn a_hole_before_the_plans_end_is_no_end() {
    let asked = ask("000000010000000000000002", Err(SourceError::NotFound)).await;
    assert_eq!(code(&asked), 201);
    assert!(asked.files.is_empty());
}

#[tokio::test]
async fn an_outage_is_no_end() {
    let outage = Err(SourceError::Unavailable("connection refused".into()));
    let asked = ask("000000010000000000000002", outage).await;
    assert_eq!(code(&asked), 200);
    assert!(asked.calls > 2, "{}", asked.calls);
    let text = asked.outcome.unwrap_err().to_string();
    assert!(text.contains("connection refused"), "{text}");
}

#[tokio::test]
async fn what_is_broken_or_short_is_no_end() {
    let broken = Err(SourceError::Corrupt("hash".into()));
    assert_eq!(code(&ask("000000010000000000000002", broken).await), 202);
    let short = ask("000000010000000000000002", Ok(vec![0; 100])).await;
    assert_eq!(code(&short), 202);
    assert!(short.files.is_empty());
}

#[tokio::test]
async fn without_the_key_it_is_no_end_and_not_tried_again() {
    for (answer, expected) in [
        (SourceError::KeyMissing("no key".into()), 210),
        (SourceError::KeyWrong("another key".into()), 211),
    ] {
        let asked = ask("000000010000000000000002", Err(answer)).await;
        assert_eq!((code(&asked), asked.calls), (expected, 1));
        assert!(asked.files.is_empty());
    }
}

#[tokio::test]
async fn another_timeline_is_refused_loudly() {
    let asked = ask("000000020000000000000002", Ok(vec![0; 1 << 20])).await;
    assert_eq!((code(&asked), asked.calls), (203, 0));
}

#[tokio::test]
async fn a_history_file_exists_or_does_not() {
    let there = ask("00000002.history", Ok(b"1\t0/1\tno".to_vec())).await;
    assert_eq!(code(&there), 0);
    let absent = ask("00000002.history", Err(SourceError::NotFound)).await;
    assert_eq!(code(&absent), 1);
    let other = ask("000000010000000000000002.partial", Ok(vec![])).await;
    assert_eq!(code(&other), 1);
}

/// The exit code of a program that panics is 101, which PostgreSQL takes for the end of the log.
#[tokio::test]
async fn a_panic_is_no_end() {
    let outcome = guarded::<()>(async { panic!("a bug") }).await;
    assert!(outcome.unwrap_err().exit_code() > 125);
    let ended = guarded::<()>(async { Err(FetchError::End("x".to_owned())) }).await;
    assert_eq!(ended.unwrap_err().exit_code(), 1);
}
