//! What a server has left, beside what it then refuses.

use std::time::Duration;

use highwater::postgres::{
    headroom::{self, Used},
    replication::Replication,
    session::{Client, ConnectOptions, connect},
    slot,
};

use crate::database::{Database, programs::major};

#[tokio::test]
async fn what_is_left_is_what_the_server_gives() {
    let kept = match major() {
        ..16 => "",
        _ => "reserved_connections = 2\n",
    };
    let settings = format!(
        "max_replication_slots = 2\nmax_wal_senders = 1\nmax_connections = 12\n\
         superuser_reserved_connections = 3\n{kept}"
    );
    let database = Database::start(16, &settings);
    database
        .sql("CREATE ROLE backup LOGIN PASSWORD 'p'; GRANT pg_monitor TO backup")
        .await;
    let superuser = database.client().await;
    let login = database.login("backup", Some("p"));
    let role = connect(&login).await.unwrap();

    let seen = headroom::ask(&superuser, "ours").await.unwrap();
    let used = |maximum, used| Used { maximum, used };
    assert_eq!(seen.wal_level, "replica");
    assert_eq!(seen.replication_slots, used(2, 0));
    assert_eq!(seen.wal_senders, used(1, 0));
    assert_eq!(seen.connections.maximum, 12, "a superuser may have all");
    let mut before = headroom::ask(&role, "ours").await.unwrap().connections;
    // The session that made the role may take a moment to be gone.
    while before.used > 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        before = headroom::ask(&role, "ours").await.unwrap().connections;
    }
    let reserved = if kept.is_empty() { 3 } else { 5 };
    assert_eq!(before.maximum, 12 - reserved);

    let mut taken = Vec::new();
    for _ in before.used..before.maximum {
        taken.push(connect(&login).await.unwrap());
    }
    let full = headroom::ask(&role, "ours").await.unwrap().connections;
    assert_eq!(full, used(before.maximum, before.maximum));
    let refused = connect(&login).await.err().unwrap();
    assert_eq!(refused.reason(), "TooManyConnections", "{refused}");
    drop(taken);

    slot::create(&superuser, "ours").await.unwrap();
    slot::create(&superuser, "theirs").await.unwrap();
    let seen = headroom::ask(&role, "ours").await.unwrap();
    assert_eq!((seen.has_slot, seen.replication_slots), (true, used(2, 2)));
    let refused = slot::create(&superuser, "another").await.unwrap_err();
    assert_eq!(refused.reason(), "TooManyReplicationSlots", "{refused}");
    assert!(
        refused.to_string().contains("max_replication_slots"),
        "{refused}"
    );
    let other = headroom::ask(&role, "another").await.unwrap();
    assert!(!other.has_slot);
}

/// Whoever asks ships WAL next: what a server that is slow has left is not known, and that is all.
#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let database = Database::start(16, "");
    let client = database.client().await;
    let other = database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let asked = tokio::time::timeout(2 * headroom::ANSWER, headroom::ask(&client, "ours")).await;
    let error = asked.expect("it is bounded").unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
    other.batch_execute("ROLLBACK").await.unwrap();
    headroom::ask(&client, "ours").await.unwrap();
}

/// Takes what is said to be left, and no more is given.
async fn fill(login: &ConnectOptions, left: impl AsyncFn() -> Option<Used>) -> Vec<Client> {
    let mut taken = Vec::new();
    loop {
        let Used { maximum, used } = left().await.unwrap();
        if used >= maximum {
            break;
        }
        taken.push(connect(login).await.unwrap());
    }
    let refused = connect(login).await.err().unwrap();
    assert_eq!(refused.reason(), "TooManyConnections", "{refused}");
    taken
}

#[tokio::test]
async fn the_limits_of_role_and_database_count_as_the_server_counts() {
    let database = Database::start(16, "");
    database
        .sql("CREATE ROLE outsider LOGIN REPLICATION PASSWORD 'p'; GRANT pg_monitor TO outsider")
        .await;
    database.allow_replication().await;
    let login = database.login("outsider", Some("p"));
    let superuser = database.client().await;
    let alone = "SELECT count(*) = 1 FROM pg_stat_activity WHERE datid IS NOT NULL";
    while !superuser
        .query_one(alone, &[])
        .await
        .unwrap()
        .get::<_, bool>(0)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let role = connect(&login).await.unwrap();
    let seen = headroom::ask(&role, "ours").await.unwrap();
    assert_eq!(
        (seen.role_connections, seen.database_connections),
        (None, None)
    );

    let _sender = Replication::connect(&login).await.unwrap();
    let limit = |statement: &'static str| superuser.batch_execute(statement);
    limit("ALTER ROLE outsider CONNECTION LIMIT 4")
        .await
        .unwrap();
    let of_role = async || headroom::ask(&role, "ours").await.unwrap().role_connections;
    let taken = fill(&login, of_role).await;
    assert_eq!(taken.len(), 3, "a WAL sender is none of them");

    limit("ALTER ROLE outsider CONNECTION LIMIT -1")
        .await
        .unwrap();
    limit("ALTER DATABASE postgres CONNECTION LIMIT 7")
        .await
        .unwrap();
    let of_database = async || {
        let seen = headroom::ask(&role, "ours").await.unwrap();
        assert_eq!(seen.role_connections, None);
        seen.database_connections
    };
    let more = fill(&login, of_database).await;
    assert_eq!(
        2 + taken.len() + more.len(),
        7,
        "a superuser's is one of them"
    );

    limit("ALTER ROLE postgres CONNECTION LIMIT 0")
        .await
        .unwrap();
    let another = database.client().await;
    let seen = headroom::ask(&another, "ours").await.unwrap();
    assert_eq!(
        (seen.role_connections, seen.database_connections),
        (None, None),
        "neither keeps a superuser out"
    );
}
