//! Killed at random moments, archiving goes on where it was.

use std::{thread, time::Duration};

use crate::{
    sample::{archive_all, as_cluster, copy, segments},
    site::{Cluster, Site, compare},
};

/// A sequence that is the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[tokio::test]
async fn a_push_that_is_killed_can_be_repeated() {
    let site = Site::new("killed-push");
    // One after the other, so that there is something left to kill.
    site.configure("parallelUploads: 1");
    let pgdata = copy(&site);
    segments(&pgdata);
    let (mut random, mut kills) = (Random(2026), 0);
    // How long a push takes, as far as is known: less than one that ended by itself had.
    let mut longest = 70;
    archive_all(&pgdata, |name| {
        let mut push = site.push_process(&pgdata, name);
        // At its start, at its end, anywhere between.
        let moment = random.below(longest);
        thread::sleep(Duration::from_millis(moment));
        if kills >= 15 {
            return push.wait().code() == 0;
        }
        if push.runs() {
            push.kill();
            kills += 1;
            return false;
        }
        longest = (moment + 1).min(longest);
        push.wait().code() == 0
    });
    assert!(kills >= 10, "{kills}");
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
}

#[tokio::test]
async fn daemon_and_server_may_be_killed_under_load() {
    let site = Site::new("killed-daemon");
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.client_command());
    let mut daemon = site.daemon();
    cluster.start();
    cluster.pgbench(&["-i", "-s", "1"]);
    let mut random = Random(15);
    for round in 0..12 {
        cluster.pgbench(&["-n", "-c", "2", "-t", "300"]);
        thread::sleep(Duration::from_millis(random.below(60)));
        daemon.kill();
        if round % 4 == 3 {
            cluster.stop("immediate");
            daemon = site.daemon();
            cluster.start();
        } else {
            daemon = site.daemon();
        }
    }
    cluster.archive_all();
    let contents = compare(&cluster, &site.lineage().await).await;
    assert!(contents.segments.len() > 12, "{}", contents.segments.len());
    assert!(daemon.runs());
}
