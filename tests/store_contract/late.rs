//! A PUT that is under way while another agent takes over, and lands later: no lease can call it back.

use highwater::{
    archive::{Archive, Lineage, PushOutcome, ReadError},
    clock::SystemClock,
    retry::Policy,
};

use crate::{
    proxy::Proxy,
    server::{self, BUCKET, KEY_ID, Process, SECRET, Server},
    servers,
    suite::{MIB, content, fetch, identity, is_conflict, lineage_id, push, segment},
};

/// The agent that takes over, and the old one, whose requests go through the proxy.
async fn two(proxy: &Proxy, port: u16) -> (Lineage, Lineage) {
    let agent = async |port| {
        let spec = server::spec(port, BUCKET);
        let archive =
            Archive::new(server::open(&spec, KEY_ID, SECRET), &spec, "shop-orders").unwrap();
        archive.probe(&SystemClock).await.unwrap();
        archive
            .with_policy(Policy::ONCE)
            .lineage(lineage_id("0123456789"))
    };
    let (new, old) = (agent(port).await, agent(proxy.port).await);
    new.create_identity(&identity(&new)).await.unwrap();
    (new, old)
}

fn key(number: u64) -> String {
    format!("/wal/00000001/{}", segment(number))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_replaces_nothing() {
    let server = Server::start();
    let proxy = Proxy::start(server.port()).await;
    let (new, old) = two(&proxy, server.port()).await;

    // The same content: both have archived it.
    let gate = proxy.hold("PUT", key(2));
    let pushing = tokio::spawn(push_of(old.clone(), 2, 0));
    gate.arrived().await;
    assert_eq!(push(&new, 2, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(gate.let_through().await, "412");
    assert_eq!(pushing.await.unwrap().unwrap(), PushOutcome::AlreadyThere);

    // Other content: the later one is refused, with both hashes.
    let gate = proxy.hold("PUT", key(3));
    let pushing = tokio::spawn(push_of(old.clone(), 3, 1));
    gate.arrived().await;
    assert_eq!(push(&new, 3, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(gate.let_through().await, "412");
    is_conflict(pushing.await.unwrap(), &content(3, 1), &content(3, 0));
    assert_eq!(fetch(&new, 3, MIB).await.unwrap(), content(3, 0));

    // The old agent is gone, its PUT is not.
    let gate = proxy.hold("PUT", key(4));
    let pushing = tokio::spawn(push_of(old.clone(), 4, 1));
    gate.arrived().await;
    pushing.abort();
    assert!(pushing.await.unwrap_err().is_cancelled());
    assert_eq!(push(&new, 4, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(gate.let_through().await, "412");
    assert_eq!(fetch(&new, 4, MIB).await.unwrap(), content(4, 0));

    // It lands first: the new agent is the later one.
    let gate = proxy.hold("PUT", key(5));
    let pushing = tokio::spawn(push_of(old, 5, 1));
    gate.arrived().await;
    pushing.abort();
    assert_eq!(gate.let_through().await, "200");
    is_conflict(push(&new, 5, 0).await, &content(5, 0), &content(5, 1));
}

async fn push_of(
    lineage: Lineage,
    number: u64,
    kind: u8,
) -> Result<PushOutcome, highwater::archive::PushError> {
    push(&lineage, number, kind).await
}

async fn overwriting() -> (Process, Proxy, Lineage, Lineage) {
    let server = servers::rclone();
    let proxy = Proxy::start(server.port).await;
    let (new, old) = two(&proxy, server.port).await;
    (server, proxy, new, old)
}

/// What remains true on a store that overwrites: whoever still runs learns of the conflict, and never reports success for
/// what is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_store_that_overwrites_whoever_lives_learns_of_it() {
    let (_server, proxy, new, old) = overwriting().await;
    // The late PUT lands before the new agent looks: the new agent is told.
    let looked = proxy.hold("PUT", key(2));
    let pushing = tokio::spawn(push_of(old.clone(), 2, 1));
    looked.arrived().await;
    let compared = proxy.hold("HEAD", key(2));
    assert_eq!(looked.let_through().await, "200");
    compared.arrived().await;
    is_conflict(push(&new, 2, 0).await, &content(2, 0), &content(2, 1));
    assert_eq!(compared.let_through().await, "200");
    assert_eq!(pushing.await.unwrap().unwrap(), PushOutcome::Created);

    // It lands after the new agent's and replaces it. The index entry of the new agent speaks against it: the old agent is
    // told, and does not delete what it takes for its own.
    let gate = proxy.hold("PUT", key(3));
    let pushing = tokio::spawn(push_of(old, 3, 1));
    gate.arrived().await;
    assert_eq!(push(&new, 3, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(gate.let_through().await, "200");
    let refused = pushing.await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict", "{refused}");
    let corrupt = fetch(&new, 3, MIB).await.unwrap_err();
    assert!(matches!(corrupt, ReadError::Corrupt { .. }), "{corrupt}");
}

/// What nobody can promise there: the object of a dead agent replaces ours without a word to anyone. Readers notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_store_that_overwrites_a_dead_agents_put_replaces() {
    let (_server, proxy, new, old) = overwriting().await;
    let gate = proxy.hold("PUT", key(2));
    let pushing = tokio::spawn(push_of(old, 2, 1));
    gate.arrived().await;
    pushing.abort();
    assert_eq!(push(&new, 2, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(fetch(&new, 2, MIB).await.unwrap(), content(2, 0));
    assert_eq!(gate.let_through().await, "200");
    let corrupt = fetch(&new, 2, MIB).await.unwrap_err();
    assert!(matches!(corrupt, ReadError::Corrupt { .. }), "{corrupt}");
    let refused = push(&new, 2, 0).await.unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict", "{refused}");
}
