//! A drill's checks, on a database that was restored rightly, and on one with a broken page.

use std::{
    fs::OpenOptions,
    io::{Seek as _, SeekFrom, Write as _},
};

use highwater::api::CheckName;
use serde_json::{Value, json};

use crate::{Restore, files, fixture};

pub async fn drill(name: &str, verify: Value) -> Restore {
    let mut restore = Restore::new(name, fixture().await.end, json!(null)).await;
    restore.job.verify = Some(serde_json::from_value(verify).unwrap());
    restore
}

/// In a catalog that nothing reads but who looks for it: `pg_ts_config_map`, by the number that it has had since PostgreSQL 8.3.
fn break_a_page(restore: &Restore) {
    let mut broken = 0;
    for table in files(&restore.pgdata().join("base"), "3603") {
        if table.ends_with("3603") {
            let mut file = OpenOptions::new().write(true).open(table).unwrap();
            file.seek(SeekFrom::Start(4096)).unwrap();
            file.write_all(b"broken").unwrap();
            broken += 1;
        }
    }
    assert!(broken >= 2, "{broken}");
}

#[tokio::test]
async fn a_drill_says_which_checks_were_passed() {
    let verify = json!({
        "checks": ["Amcheck", "Checksums"],
        "sql": "SELECT count(*) = 5000, 'rows' FROM ledger",
    });
    let restore = drill("drill", verify).await;
    let result = restore.run().await.unwrap();
    let passed: Vec<CheckName> = result.checks.iter().map(|check| check.name).collect();
    assert_eq!(
        passed,
        [
            CheckName::Start,
            CheckName::Sql,
            CheckName::Amcheck,
            CheckName::Checksums
        ]
    );
    assert!(restore.control().contains("shut down\n"));
    // Another try says the same.
    assert_eq!(restore.run().await.unwrap(), result);
}

#[tokio::test]
async fn a_statement_fails_a_drill_by_false_and_by_an_error() {
    for (name, sql, said) in [
        (
            "false",
            "SELECT n <> 4000 FROM ledger ORDER BY n",
            "row 1 of 5000 is not true",
        ),
        ("null", "SELECT NULL::boolean", "row 1 of 1 is not true"),
        ("error", "SELECT 1 / 0", "division by zero (SQLSTATE 22012)"),
        ("two", "SELECT 1; SELECT 2", "42601"),
    ] {
        let restore = drill(&format!("drill-{name}"), json!({"sql": sql})).await;
        let error = restore.run().await.unwrap_err();
        assert_eq!(error.reason(), "VerificationFailed", "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_broken_page_is_found_by_who_looks_for_it() {
    for (name, verify, found) in [
        ("amcheck", json!({"checks": ["Amcheck"]}), true),
        ("checksums", json!({"checks": ["Checksums"]}), true),
        // PostgreSQL starts on it, and answers.
        ("start", json!({"sql": "SELECT true"}), false),
    ] {
        let restore = drill(&format!("broken-{name}"), verify).await;
        break_a_page(&restore);
        match restore.run().await {
            Ok(result) => assert!(!found, "{result:?}"),
            Err(error) => {
                assert!(found, "{error}");
                assert_eq!(error.reason(), "VerificationFailed", "{error}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}

/// The recovery pod holds what opens the archive; who writes a PgRestore chooses the statement.
#[tokio::test]
async fn a_statement_reads_the_database_and_nothing_else() {
    for (name, sql) in [
        ("file", "SELECT pg_catalog.pg_read_file('PG_VERSION')"),
        ("program", "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'"),
        (
            "superuser",
            "DO $$ BEGIN RESET SESSION AUTHORIZATION; RESET ROLE; COPY ledger TO '/dev/null'; END $$",
        ),
        ("row", "DELETE FROM ledger"),
        ("schema", "CREATE SCHEMA mine"),
        // With a hash of the old kind one logs in at the source.
        ("password", "SELECT rolpassword FROM pg_catalog.pg_authid"),
        (
            "remote",
            "SELECT subconninfo FROM pg_catalog.pg_subscription",
        ),
        (
            "foreign",
            "SELECT umoptions FROM pg_catalog.pg_user_mapping",
        ),
    ] {
        let restore = drill(&format!("drill-{name}"), json!({"sql": sql})).await;
        let error = restore.run().await.unwrap_err();
        assert_eq!(error.reason(), "CheckNotCarriedOut", "{error}");
        assert!(error.to_string().contains("42501"), "{error}");
        assert!(restore.control().contains("shut down\n"));
    }
}
