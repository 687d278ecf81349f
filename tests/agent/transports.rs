//! Which way WAL comes, and why.

use std::time::Duration;

use highwater::{
    agent::{transport::Transports, wal::TapError},
    api::Transport,
};

use crate::{database::Database, running::server_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_is_chosen_once_and_a_refusal_remembered() {
    let refusals = |database: &Database| {
        let log = std::fs::read_to_string(database.directory().join("log")).unwrap();
        log.matches("no pg_hba.conf entry for replication").count()
    };
    let database = Database::start(1, "");
    let server = server_of(&database).await;
    let transports = Transports::default();
    let choose = async |wanted| transports.choose(wanted, false, &server, "orders-0").await;
    for _ in 0..3 {
        let sql = choose(Transport::Auto).await.unwrap();
        assert_eq!(
            (sql.transport(), sql.reason),
            (Transport::Sql, "NoReplicationAccess")
        );
        assert!(sql.message.contains("host replication"), "{}", sql.message);
    }
    assert_eq!(
        refusals(&database),
        1,
        "the server is asked, and writes to its log, once"
    );
    let refused = choose(Transport::Streaming).await.err().unwrap();
    assert!(refused.to_string().contains("pg_hba.conf"), "{refused}");
    let itself = choose(Transport::ArchiveCommand).await.unwrap();
    assert_eq!(
        (itself.transport(), itself.reason),
        (Transport::ArchiveCommand, "Requested")
    );
    assert!(itself.source(false).is_none());
    let asked_for = choose(Transport::Sql).await.unwrap();
    assert_eq!(
        (asked_for.transport(), asked_for.reason),
        (Transport::Sql, "Requested")
    );

    database.allow_replication().await;
    // Who asks for it by name is not told what was remembered, and what was is forgotten.
    let streaming = choose(Transport::Streaming).await.unwrap();
    assert_eq!(
        (streaming.transport(), streaming.reason),
        (Transport::Streaming, "Requested")
    );
    let streaming = choose(Transport::Auto).await.unwrap();
    assert_eq!(streaming.reason, "ReplicationAllowed");
    // A stream that breaks off again and again is given up for a while; one that works in between is not.
    let broken = || transports.broken("orders-0", &TapError::Silent);
    (0..4).for_each(|_| broken());
    transports.works();
    (0..4).for_each(|_| broken());
    assert_eq!(
        choose(Transport::Auto).await.unwrap().transport(),
        Transport::Streaming
    );
    broken();
    let sql = choose(Transport::Auto).await.unwrap();
    assert_eq!(
        (sql.transport(), sql.reason),
        (Transport::Sql, "SessionLost")
    );

    let none = Database::start(1, "max_wal_senders = 0");
    none.allow_replication().await;
    let server = server_of(&none).await;
    let sql = transports
        .choose(Transport::Auto, false, &server, "orders-1")
        .await
        .unwrap();
    assert_eq!(
        (sql.transport(), sql.reason),
        (Transport::Sql, "TooManyWalSenders")
    );
}

/// Whoever ships by SQL, as replication was refused, goes over to a stream when it is let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_taken_when_the_server_lets_us_in() {
    let database = Database::start(1, "");
    let server = server_of(&database).await;
    let (transports, often) = (Transports::default(), Duration::from_millis(100));
    let choose = async || {
        let choice = transports.choose(Transport::Auto, false, &server, "orders-0");
        choice.await.unwrap()
    };
    let sql = choose().await;
    assert_eq!(sql.transport(), Transport::Sql);
    let better = async |wanted| {
        transports
            .better(wanted, often, &sql, &server, "orders-0")
            .await
    };
    let patience = Duration::from_secs(1);
    let early = tokio::time::timeout(patience, better(Transport::Auto)).await;
    assert!(early.is_err(), "it refuses still");
    database.allow_replication().await;
    // What the policy asks for by name stays.
    let asked_for = tokio::time::timeout(patience, better(Transport::Sql)).await;
    assert!(asked_for.is_err(), "nobody asked for a stream");
    let now = tokio::time::timeout(Duration::from_secs(60), better(Transport::Auto)).await;
    assert!(now.is_ok(), "it lets us in, and nobody sees it");
    let streaming = choose().await;
    assert_eq!(
        (streaming.transport(), streaming.reason),
        (Transport::Streaming, "ReplicationAllowed")
    );
}
