//! An archive that is written to while it is verified: nothing that is under way is called damage.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    said::verify,
    site::{Cluster, Site},
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_writer_at_work_is_no_damage() {
    let site = Site::new("verify-live");
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.push_command());
    cluster.start();
    cluster.sql("CREATE TABLE t (n int, filler text)");
    cluster.archive_all();
    let done = AtomicBool::new(false);
    let mut last = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                cluster.sql(
                    "INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 9000) n",
                );
            }
        });
        let segments = || {
            let said = verify(&site.config(), &["--parallel", "2"]);
            let lineage = &said.expect_sound()["lineages"][0];
            lineage["timelines"][0]["segments"].as_u64().unwrap()
        };
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (begin, mut seen) = (Instant::now(), Vec::new());
            // Until it has grown meanwhile.
            while seen.len() < 6 || seen.first() == seen.last() {
                assert!(begin.elapsed() < LIMIT, "{seen:?}");
                seen.push(segments());
            }
            seen
        }));
        done.store(true, Ordering::SeqCst);
        last = *seen.unwrap().last().unwrap();
    });
    cluster.archive_all();
    let said = verify(&site.config(), &[]);
    let lineage = &said.expect_sound()["lineages"][0];
    assert!(lineage["timelines"][0]["segments"].as_u64().unwrap() >= last);
}
