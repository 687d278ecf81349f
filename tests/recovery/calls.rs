//! Nobody is called: a copy that streams or subscribes takes the original's place.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::{Restore, cluster, cluster::Running, fixture};

/// Where the source's primary and publisher would be. Counts who calls.
pub struct Callee {
    pub port: u16,
    count: Arc<AtomicUsize>,
}

impl Callee {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            for call in listener.incoming() {
                drop(call);
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Until it was called more than `before` times.
    async fn called(&self, before: usize) {
        wait_for("a call", || self.count() > before).await;
    }
}

pub async fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_there() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {what} within 60 s");
}

#[tokio::test]
async fn nothing_is_called_before_subscriptions_are_disabled() {
    let fixture = fixture().await;
    let restore = Restore::new("calls", fixture.end, json!(null)).await;
    let result = restore.run().await.unwrap();
    assert_eq!(result.disabled_subscriptions, ["postgres/feed"]);
    // Of this recovery and of all that ran beside it.
    assert_eq!(fixture.callee.count(), 0);

    // Who only starts such a copy calls the primary, and once it is promoted the publisher.
    let root = fixture.root.join("started");
    std::fs::create_dir(&root).unwrap();
    cluster::hand_over(&root);
    let pgdata = root.join("data");
    cluster::copy(&fixture.snapshot(), &pgdata);
    std::fs::write(pgdata.join("standby.signal"), "").unwrap();
    // In a pod of its own no process has the source's number.
    std::fs::remove_file(pgdata.join("postmaster.pid")).unwrap();
    let running = Running::start(
        &pgdata,
        "-c max_prepared_transactions=5 -c wal_level=logical -c recovery_target_time='' \
         -c recovery_min_apply_delay=0",
    );
    fixture.callee.called(0).await;
    let promoted = cluster::run(
        "pg_ctl",
        &["promote", "-w", "-D", &pgdata.to_string_lossy()],
    );
    assert!(promoted.status.success());
    assert!(pgdata.join("recovery_end_command.called").exists());
    fixture.callee.called(fixture.callee.count()).await;
    drop(running);
    std::fs::remove_dir_all(root).unwrap();
}
