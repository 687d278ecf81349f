//! Why the volume with pg_control is cut last: PostgreSQL takes a copy of a standby for whole where its pg_control says so.

use std::fs;

use highwater::{
    api::RestorePlan,
    postgres::{
        Lsn,
        backup_mode::{self, Stopped},
        session::Client,
        wal_reader,
    },
    recovery::cut,
};
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    database::{Database, run},
    pair::{CONTROL, Pair, control, copy, directory, promoted, restored},
};

/// What both accounts hold together, whatever is moved between them.
const TOTAL: i64 = 200;
const ACCOUNTS: &str = "CREATE TABLE public.savings (amount bigint, touched int); \
    CREATE TABLE public.checking (amount bigint, touched int); \
    INSERT INTO public.savings VALUES (100, 0); INSERT INTO public.checking VALUES (100, 0)";
/// In backup mode the first change of a page writes all of it to WAL.
const TOUCH: &str = "UPDATE public.savings SET touched = 1";
/// Frozen, so that the page alone says what it holds, and not whether WAL tells that the transaction was committed.
const TRANSFER: &str = "BEGIN; UPDATE public.savings SET amount = amount - 50; \
    UPDATE public.checking SET amount = amount + 50; COMMIT; \
    VACUUM (FREEZE) public.savings, public.checking";
const SUM: &str = "SELECT ((SELECT sum(amount) FROM public.savings) \
    + (SELECT sum(amount) FROM public.checking))::bigint";

/// One backup of a standby, with pg_control of two moments.
struct Backup {
    /// Everything, copied after the transfer.
    directory: TempDir,
    /// pg_control, copied before the transfer and all else.
    first: Vec<u8>,
    /// pg_control, copied after all else.
    last: Vec<u8>,
    stopped: Stopped,
    /// The primary's clock at the end.
    at: Timestamp,
}

impl Backup {
    async fn take(pair: &Pair) -> Self {
        let (primary, own) = (pair.primary.client().await, pair.standby.client().await);
        pair.primary.sql(ACCOUNTS).await;
        backup_mode::start(&primary, "around", true).await.unwrap();
        pair.replayed(&primary, &own).await;
        backup_mode::start(&own, "of the standby", true)
            .await
            .unwrap();
        pair.primary.sql(TOUCH).await;
        let touched = wal_reader::flush_position(&primary).await.unwrap().lsn;
        write_pages(pair, &primary, &own).await;
        let pg_control = || fs::read(pair.standby.data().join(CONTROL)).unwrap();
        let first = pg_control();
        let before = wal_reader::flush_position(&primary).await.unwrap().lsn;
        pair.primary.sql(TRANSFER).await;
        write_pages(pair, &primary, &own).await;
        let directory = directory();
        copy(&pair.standby.data(), directory.path());
        let last = pg_control();
        let stopped = backup_mode::stop(&own).await.unwrap();
        let at = backup_mode::stop(&primary).await.unwrap().at;
        let backup = Self {
            directory,
            first,
            last,
            stopped,
            at,
        };
        let early = backup.early_end();
        assert!(
            touched <= early && early <= before,
            "{touched} {early} {before}"
        );
        backup
    }

    /// A copy with this pg_control that is to be recovered up to `target`.
    fn restored(&self, pair: &Pair, pg_control: &[u8], target: Lsn) -> Database {
        let to = directory();
        copy(&self.directory.path().join("data"), to.path());
        fs::write(to.path().join("data").join(CONTROL), pg_control).unwrap();
        restored(pair, to, &self.stopped, target)
    }

    /// What the copy is whole from on, by the pg_control that was copied first.
    fn early_end(&self) -> Lsn {
        control(&self.first).min_recovery_point
    }
}

/// All that the primary has written is replayed, in pages that are written, and pg_control says so.
async fn write_pages(pair: &Pair, primary: &Client, own: &Client) {
    primary.batch_execute("CHECKPOINT").await.unwrap();
    pair.replayed(primary, own).await;
    own.batch_execute("CHECKPOINT").await.unwrap();
}

async fn total(copied: &Database) -> i64 {
    let client = promoted(copied).await;
    client.query_one(SUM, &[]).await.unwrap().get(0)
}

/// Why it does not start.
fn refused(copied: &Database) -> String {
    let arguments = ["-D", "data", "-w", "-t", "120", "-l", "log", "start"];
    let output = run("pg_ctl", &arguments, copied.directory());
    assert!(!output.status.success(), "it started");
    fs::read_to_string(copied.directory().join("log")).unwrap()
}

fn plan(wal_from: Lsn, target: Lsn) -> RestorePlan {
    let plan = json!({
        "summary": "", "backup": "b", "backupKey": "k", "archive": "main", "archiveName": "a",
        "lineage": "k3v9q2abcd", "timeline": 1, "walFrom": wal_from, "walTo": Lsn::new(u64::MAX >> 1),
        "stopAt": {"lsn": target, "inclusive": false}, "bytes": 1,
    });
    serde_json::from_value(plan).unwrap()
}

#[tokio::test]
async fn pg_control_that_is_copied_first_makes_a_copy_that_starts_and_is_torn() {
    let pair = Pair::start().await;
    let backup = Backup::take(&pair).await;
    let (early, end) = (backup.early_end(), backup.stopped.stop_lsn);

    // Of one table the page of before the transfer is in WAL up to there, of the other nothing is.
    let torn = backup.restored(&pair, &backup.first, early);
    assert_eq!(total(&torn).await, TOTAL + 50);
    // With the same files and pg_control that was copied last PostgreSQL refuses that, and goes on to the end.
    let log = refused(&backup.restored(&pair, &backup.last, early));
    let too_early = "requested recovery stop point is before consistent recovery point";
    assert!(log.contains(too_early), "{log}");
    for pg_control in [&backup.last, &backup.first] {
        let whole = backup.restored(&pair, pg_control, end);
        assert_eq!(total(&whole).await, TOTAL);
    }

    // Nothing in pg_control tells that it was copied first: what is left is the target.
    let label = backup.stopped.label.as_bytes();
    let first = control(&backup.first);
    assert_eq!(cut::within(&first, label, end), Ok(()));
    let reaches = |target| cut::reaches(&plan(first.redo, target), label, (end, backup.at));
    assert_eq!(reaches(early).unwrap_err().reason(), "TargetBeforeWindow");
    assert_eq!(reaches(end), Ok(()));
}
