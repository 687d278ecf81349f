//! What a server has left, beside what it then refuses.

use std::time::Duration;

use highwater::postgres::{
    headroom::{self, Used},
    session::connect,
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
