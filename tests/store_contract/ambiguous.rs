//! Answers that say nothing: the server may have done it, or not. What lies there decides, never a guess.

use std::time::Duration;

use highwater::{
    archive::{Archive, Lineage, Patience, PushOutcome},
    retry::Policy,
};

use crate::{
    http::Message,
    proxy::{Fault, Proxy},
    server::{self, BUCKET, KEY_ID, SECRET, Server},
    suite::{MIB, content, fetch, identity, is_conflict, lineage_id, push, segment},
};

const TWICE: Policy = Policy {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(5),
    give_up_after: Duration::from_secs(5),
};

/// A lineage in the server, straight and through the proxy.
async fn begun(proxy: &Proxy, server: &Server) -> (Lineage, Archive) {
    let straight = crate::archive(server.store());
    let lineage = straight.lineage(lineage_id("0123456789"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    let spec = server::spec(proxy.port, BUCKET);
    let through = Archive::new(server::open(&spec, KEY_ID, SECRET), &spec, "shop-orders").unwrap();
    (lineage, through)
}

/// Both ends of a lost answer: our own object lies there, or another's.
async fn ends_in_comparing(
    proxy: &Proxy,
    straight: &Lineage,
    ours: &Lineage,
    first: u64,
    fault: Fault,
) {
    let put = |number| {
        proxy.once(
            "PUT",
            format!("/wal/00000001/{}", segment(number)),
            fault.clone(),
        )
    };
    put(first);
    let pushed = push(ours, first, 0).await.unwrap();
    assert_eq!(pushed, PushOutcome::AlreadyThere, "{fault:?}");
    assert_eq!(
        fetch(straight, first, MIB).await.unwrap(),
        content(first, 0)
    );

    let second = first + 1;
    push(straight, second, 1).await.unwrap();
    put(second);
    let refused = push(ours, second, 0).await;
    is_conflict(refused, &content(second, 0), &content(second, 1));
    assert_eq!(
        fetch(straight, second, MIB).await.unwrap(),
        content(second, 1)
    );
    assert!(proxy.all_met(), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_ends_in_comparing() {
    let server = Server::start();
    let proxy = Proxy::start(server.port()).await;
    let (straight, through) = begun(&proxy, &server).await;
    let mut number = 2;
    for policy in [Policy::ONCE, TWICE] {
        let ours = through.clone().with_policy(policy);
        let ours = ours.lineage(straight.id().clone());
        for fault in [Fault::Closed, Fault::Reset, Fault::Error500] {
            ends_in_comparing(&proxy, &straight, &ours, number, fault).await;
            number += 2;
        }
    }
    let hurried = through.with_policy(Policy::ONCE).with_patience(Patience {
        request: Duration::from_secs(10),
        per_mib: Duration::ZERO,
    });
    let ours = hurried.lineage(straight.id().clone());
    ends_in_comparing(&proxy, &straight, &ours, number, Fault::Silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_is_no_success() {
    let server = Server::start();
    let proxy = Proxy::start(server.port()).await;
    let (straight, through) = begun(&proxy, &server).await;
    let ours = through.with_policy(Policy::ONCE);
    let ours = ours.lineage(straight.id().clone());
    let key = format!("/wal/00000001/{}", segment(2));
    proxy.once("PUT", &key, Fault::Reset);
    proxy.once("HEAD", &key, Fault::Reset);
    let refused = push(&ours, 2, 0).await.unwrap_err();
    assert_eq!(refused.reason(), "ArchiveUnavailable", "{refused}");
    assert!(proxy.all_met());
    // It was there all the time, and the next push finds it.
    assert_eq!(push(&ours, 2, 0).await.unwrap(), PushOutcome::AlreadyThere);
}

/// Amazon S3 answers so while another writer puts the same object, which may fail and never be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_and_is_not_is_put_again() {
    let server = Server::start();
    let proxy = Proxy::start(server.port()).await;
    let (straight, through) = begun(&proxy, &server).await;
    let ours = through.with_policy(TWICE).lineage(straight.id().clone());
    let busy = "<Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>";
    let busy = Message::new("HTTP/1.1 409 Conflict", busy);
    for key in ["wal", "index"] {
        let key = format!("/{key}/00000001/{}", segment(2));
        proxy.once("PUT", key, Fault::Canned(busy.clone()));
    }
    let pushed = push(&ours, 2, 0).await.unwrap();
    assert_eq!(pushed, PushOutcome::Created);
    assert!(proxy.all_met());
    assert_eq!(fetch(&straight, 2, MIB).await.unwrap(), content(2, 0));
}
