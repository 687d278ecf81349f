//! What a role without superuser rights needs: found out by trying.

use highwater::postgres::{
    archiver, backup_mode, privileges, server,
    session::{Client, QueryError, connect},
    slot, standby, wal_reader,
};

use crate::database::{Database, programs::major};

/// Everything that the agent does.
async fn everything(client: &Client, database: &Database) -> Result<(), QueryError> {
    server::facts(client).await?;
    slot::create(client, "rights").await?;
    let position = query(wal_reader::flush_position(client).await)?;
    let size = database.segment_size;
    let name = highwater::postgres::SegmentName::containing(position.timeline, position.lsn, size);
    query(wal_reader::read(client, name, size, 0, 8192).await)?;
    wal_reader::history_file(client, position.timeline).await?;
    assert!(!archiver::ask(client).await?.mode);
    let fate = archiver::fate(client, name, size).await?;
    assert_eq!(fate, archiver::Fate::Unnoticed);
    slot::advance(client, "rights", position.lsn).await?;
    slot::drop(client, "rights").await?;
    assert_eq!(standby::streams(client).await?, None);
    assert_eq!(standby::minimum_timeline(client).await?, None);
    backup_mode::start(client, "rights", true).await?;
    backup_mode::stop(client).await?;
    Ok(())
}

fn query<T>(result: Result<T, wal_reader::WalReadError>) -> Result<T, QueryError> {
    result.map_err(|error| match error {
        wal_reader::WalReadError::Query(error) => error,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn each_grant_that_is_named_is_needed_and_all_are_enough() {
    let database = Database::start(16, "");
    database
        .sql("CREATE ROLE \"Back Up\" LOGIN PASSWORD 'p'")
        .await;
    let login = database.login("Back Up", Some("p"));
    let open = async || connect(&login).await.unwrap();
    let superuser = database.client().await;
    assert_eq!(privileges::missing(&superuser).await.unwrap(), []);

    let missing = privileges::missing(&open().await).await.unwrap();
    let statements: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let (start, stop) = match major() {
        ..15 => (
            "pg_start_backup(text, boolean, boolean)",
            "pg_stop_backup(boolean, boolean)",
        ),
        _ => ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"),
    };
    let read = "pg_read_binary_file(text, bigint, bigint, boolean)";
    let execute = |call| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{call} TO \"Back Up\"");
    let roles = [
        "ALTER ROLE \"Back Up\" REPLICATION",
        "GRANT pg_monitor TO \"Back Up\"",
    ];
    let functions = [read, start, stop].map(execute);
    assert_eq!(
        statements,
        [&roles.map(String::from)[..], &functions].concat()
    );
    assert!(missing.iter().all(|grant| grant.database == "postgres"));
    for statement in &statements {
        superuser.batch_execute(statement).await.unwrap();
    }
    assert_eq!(privileges::missing(&open().await).await.unwrap(), []);
    everything(&open().await, &database).await.unwrap();

    for statement in &statements {
        let back = match statement.as_str() {
            "ALTER ROLE \"Back Up\" REPLICATION" => "ALTER ROLE \"Back Up\" NOREPLICATION".into(),
            grant => grant
                .replacen("GRANT", "REVOKE", 1)
                .replacen(" TO ", " FROM ", 1),
        };
        superuser.batch_execute(&back).await.unwrap();
        let client = open().await;
        let named = privileges::missing(&client).await.unwrap();
        assert_eq!(
            named.iter().map(ToString::to_string).collect::<Vec<_>>(),
            std::slice::from_ref(statement)
        );
        let error = everything(&client, &database).await.unwrap_err();
        assert_eq!(
            error.reason(),
            "InsufficientPrivileges",
            "without {statement}: {error}"
        );
        slot::drop(&superuser, "rights").await.unwrap();
        superuser.batch_execute(statement).await.unwrap();
    }
    rights_taken_from_everybody_are_named(&superuser, &open().await).await;
}

async fn rights_taken_from_everybody_are_named(superuser: &Client, client: &Client) {
    for function in ["pg_control_system()", "pg_control_checkpoint()"] {
        let revoke = format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC");
        superuser.batch_execute(&revoke).await.unwrap();
        let named = privileges::missing(client).await.unwrap();
        let [grant] = &named[..] else {
            panic!("{named:?}")
        };
        assert_eq!(
            server::facts(client).await.unwrap_err().reason(),
            "InsufficientPrivileges"
        );
        superuser.batch_execute(&grant.statement).await.unwrap();
        server::facts(client).await.unwrap();
    }
}
