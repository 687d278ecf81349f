//! What PostgreSQL makes of the exit code of its `restore_command`.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::json;

use crate::{Restore, fixture};

const HIGHWATER: &str = env!("CARGO_BIN_EXE_highwater");

/// The control of the test with the same gap: it is the exit code that keeps PostgreSQL from promoting.
#[tokio::test]
async fn exit_1_at_a_gap_would_promote() {
    let (_, lsn) = fixture().await.before_drop;
    let mut restore = Restore::new("exit-1", fixture().await.end, json!(null)).await;
    restore.lose_segment_of(lsn);
    restore.job.program = restore.script("fetch", &format!("'{HIGHWATER}' \"$@\" || exit 1"));
    // It is promoted, but not taken for the restore that was asked for, however often it is tried.
    for _ in 0..2 {
        let error = restore.run().await.unwrap_err();
        assert_eq!(error.reason(), "EndedEarly", "{error}");
    }
    let control = restore.control();
    assert!(control.contains("TimeLineID:       2"), "{control}");
    let (rows, _, last) = restore.rows().await;
    assert!(rows < 4000 && last < Some(3999), "{rows} {last:?}");
}

/// More than 125 would kill a standby; it asks again if it is told that there is no such file.
#[test]
fn on_a_standby_a_failure_is_exit_1() {
    let place = tempfile::tempdir().unwrap();
    let invalid = place.path().join("invalid.json");
    fs::write(&invalid, "{").unwrap();
    let missing = place.path().join("missing.json");
    for config in [invalid, missing] {
        let fetch = || -> Output {
            Command::new(HIGHWATER)
                .args(["wal", "fetch", "--config"])
                .arg(&config)
                .args(["000000010000000000000001", "RECOVERYXLOG"])
                .current_dir(place.path())
                .output()
                .unwrap()
        };
        let signal = place.path().join("standby.signal");
        for (standby, expected) in [(false, 205), (true, 1)] {
            if standby {
                fs::write(&signal, "").unwrap();
            }
            let output = fetch();
            assert_eq!(output.status.code(), Some(expected), "{output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(&*config.to_string_lossy()), "{said}");
            assert!(!place.path().join("RECOVERYXLOG").exists());
        }
        fs::remove_file(signal).unwrap();
    }
}
