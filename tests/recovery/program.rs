//! A drill's own program, run by `highwater check-program` as in its container.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use highwater::{api::CheckName, recovery::job::JobError};
use serde_json::json;
use tokio::time::sleep;

use crate::{Restore, drill::drill};

/// The container beside recovery.
struct Container(Child);

impl Container {
    fn start(restore: &Restore, command: &[&str]) -> Self {
        let exchange = &restore.job.exchange;
        let directory =
            |name: &str, path: &Path| format!("--check-{name}={}", path.to_str().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .arg("check-program")
            .arg(directory("request", &exchange.request))
            .arg(directory("answer", &exchange.answer))
            .arg("--")
            .args(command)
            // What an image sets counts for nothing.
            .env("PGHOSTADDR", "192.0.2.1")
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A drill that asks a program; `number` gives it an address of its own.
async fn asked(name: &str, number: u8, deadline: u64) -> Restore {
    let program = json!({"image": "any", "command": ["any"], "deadlineSeconds": deadline});
    let mut restore = drill(name, json!({"program": program})).await;
    restore.job.exchange.address = [127, 0, 47, number].into();
    for directory in [&restore.job.exchange.request, &restore.job.exchange.answer] {
        fs::create_dir(directory).unwrap();
    }
    restore
}

async fn fails(restore: &Restore, command: &[&str]) -> JobError {
    let _container = Container::start(restore, command);
    let error = restore.run().await.unwrap_err();
    assert!(restore.control().contains("shut down\n"), "{error}");
    assert!(!restore.job.exchange.request.join("request.json").exists());
    error
}

#[tokio::test]
async fn a_program_reads_the_database_and_nothing_else() {
    let restore = asked("program-reads", 1, 60).await;
    let script = r#"
        set -eu
        test "$(psql -XAtc 'SELECT count(*) FROM ledger')" = 5000
        denied() {
            said=$(psql -XAtc "$1" 2>&1) && { echo "allowed: $1"; exit 1; }
            case $said in *"permission denied"* | *"must be superuser"*) ;; *) echo "$1: $said"; exit 1 ;; esac
        }
        denied "CREATE SCHEMA mine"
        denied "DELETE FROM ledger"
        denied "SELECT rolpassword FROM pg_authid"
        denied "SELECT passwd FROM pg_shadow"
        denied "SELECT pg_read_file('PG_VERSION')"
        denied "COPY ledger TO PROGRAM 'cat > /dev/null'"
        for user in postgres root highwater; do
            said=$(psql -X -U $user -c 'SELECT 1' 2>&1) && { echo "it is $user"; exit 1; }
            case $said in *"no pg_hba.conf entry"*) ;; *) echo "$user: $said"; exit 1 ;; esac
        done
        said=$(PGPASSWORD=wrong psql -Xc 'SELECT 1' 2>&1) && { echo "without a password"; exit 1; }
        case $said in *"password authentication failed"*) ;; *) echo "$said"; exit 1 ;; esac
    "#;
    let _container = Container::start(&restore, &["sh", "-c", script]);
    let result = restore.run().await.unwrap();
    let passed: Vec<CheckName> = result.checks.iter().map(|check| check.name).collect();
    assert_eq!(passed, [CheckName::Start, CheckName::Program]);
}

#[tokio::test]
async fn what_a_program_said_last_is_told_without_its_password() {
    let restore = asked("program-fails", 2, 60).await;
    let script =
        "seq 1 5000; printf 'with \\033[31m%s\\n' \"$PGPASSWORD\"; echo 'too few' >&2; exit 3";
    let error = fails(&restore, &["sh", "-c", script]).await;
    assert_eq!(error.reason(), "ProgramFailed", "{error}");
    let said = error.to_string();
    assert!(said.contains("exit code 3"), "{said}");
    assert!(said.contains("too few"), "{said}");
    assert!(said.contains("[31m***"), "{said}");
    assert!(said.len() < 2200 && !said.contains('\u{1b}'), "{said}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let restore = asked("program-hangs", 3, 1).await;
    let left = restore.root().join("left");
    let script = format!(
        "(sleep 3; touch {}) & echo waiting; sleep 60",
        left.display()
    );
    let error = fails(&restore, &["sh", "-c", &script]).await;
    assert_eq!(error.reason(), "ProgramDeadlineExceeded", "{error}");
    assert!(error.to_string().contains("waiting"), "{error}");
    sleep(Duration::from_secs(3)).await;
    assert!(!left.exists());
}

#[tokio::test]
async fn a_program_that_is_not_there_says_nothing_about_the_data() {
    let restore = asked("program-missing", 4, 60).await;
    let error = fails(&restore, &["no-such-program"]).await;
    assert_eq!(error.reason(), "CheckNotCarriedOut", "{error}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
}

#[tokio::test]
async fn a_container_that_ends_says_nothing_about_the_data() {
    let restore = asked("program-container", 5, 60).await;
    let began = restore.root().join("began");
    let script = format!("touch {}; sleep 5", began.display());
    let command = ["sh", "-c", &script];
    let first = Container::start(&restore, &command);
    let restarted = async {
        while !began.exists() {
            sleep(Duration::from_millis(50)).await;
        }
        drop(first);
        Container::start(&restore, &command)
    };
    let (error, _container) = tokio::join!(restore.run(), restarted);
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "CheckNotCarriedOut", "{error}");
    assert!(error.to_string().contains("its container"), "{error}");
}

/// Recovery that is killed is started again, and asks anew.
#[tokio::test]
async fn what_nobody_waits_for_any_more_is_ended_and_asked_again() {
    let restore = asked("program-again", 6, 60).await;
    let (began, left) = (restore.root().join("began"), restore.root().join("left"));
    let script = format!(
        "test -e {began} && exit 0; touch {began}; (sleep 3; touch {left}) & sleep 60",
        began = began.display(),
        left = left.display()
    );
    let _container = Container::start(&restore, &["sh", "-c", &script]);
    let stopped = async {
        while !began.exists() {
            sleep(Duration::from_millis(50)).await;
        }
        restore.stop.send_replace(true);
    };
    let (result, ()) = tokio::join!(restore.run(), stopped);
    assert!(matches!(result, Err(JobError::Terminated)), "{result:?}");
    restore.stop.send_replace(false);
    let result = restore.run().await.unwrap();
    assert_eq!(result.checks[1].name, CheckName::Program);
    sleep(Duration::from_secs(3)).await;
    assert!(!left.exists());
}
