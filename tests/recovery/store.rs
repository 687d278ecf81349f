//! The fixture's archive in a real S3 server, behind a proxy that breaks requests.

use std::{fs, path::PathBuf};

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, Lineage},
    postgres::{Lsn, SegmentName, TimelineId},
    recovery::{
        fetch::{FetchProgress, MountedPaths},
        job::JobError,
    },
};
use serde_json::json;

use crate::{
    Restore, cluster, fixture,
    proxy::{Fault, Proxy},
};

#[path = "../store_contract/server.rs"]
#[allow(dead_code, reason = "the contract's tests use more of it")]
pub mod server;

pub const BUCKET: &str = server::BUCKET;

/// A restore of all the log from an archive of its own.
pub struct Stored {
    pub restore: Restore,
    pub proxy: Proxy,
    pub server: server::Server,
}

impl Stored {
    pub async fn new(name: &str) -> Self {
        Self::start(name, &fixture().await.spec, None).await
    }

    /// Encrypted; the restore has the key.
    pub async fn encrypted(name: &str) -> Self {
        let fixture = fixture().await;
        Self::start(name, &fixture.encrypted, Some(fixture.identity())).await
    }

    /// Encrypted as `like` is.
    async fn start(name: &str, like: &PgArchiveSpec, decryption: Option<PathBuf>) -> Self {
        let server = server::Server::start();
        let proxy = Proxy::start(server.port());
        let root = Restore::directory(name).await;
        let credentials = root.join("credentials");
        fs::create_dir(&credentials).unwrap();
        for (key, value) in [
            ("AWS_ACCESS_KEY_ID", server::KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", server::SECRET),
        ] {
            fs::write(credentials.join(key), value).unwrap();
        }
        let mut spec = server::spec(proxy.port, BUCKET);
        spec.encryption.clone_from(&like.encryption);
        let lineage = lineage(&server, &spec);
        fixture().await.archive_all(&lineage).await;
        let plan = Restore::plan(fixture().await.end, json!(null)).await;
        let mounted = MountedPaths {
            credentials: Some(credentials),
            ca: None,
            decryption,
            directory: PathBuf::from("/nowhere"),
        };
        Self {
            restore: Restore::from_archive(name, plan, &spec, mounted).await,
            proxy,
            server,
        }
    }

    pub fn lineage(&self) -> Lineage {
        lineage(&self.server, &self.restore.job.fetch.archive)
    }

    /// When `segment` is asked for the bucket goes. What is returned brings it back.
    pub fn lose_bucket_at(&self, segment: SegmentName) -> impl FnOnce() {
        let data = self.server.data();
        let (here, away) = (data.join(BUCKET), data.join("renamed"));
        let renamed = (here.clone(), away.clone());
        let rename = Box::new(move || fs::rename(renamed.0, renamed.1).unwrap());
        let needle = segment.to_string();
        self.proxy
            .break_at(&needle, true, Fault::None, Some(rename));
        move || fs::rename(away, here).unwrap()
    }

    /// Recovery ends loudly, for `reason`, when `segment` or one shortly before it is asked for.
    pub async fn fails(&self, reason: &str, segment: SegmentName) -> JobError {
        let error = self.restore.run().await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        self.restore.is_not_promoted();
        self.handed_out_nothing_wrong();
        let reached = self.reached().expect("it failed in the middle");
        let begun = fixture().await.start.advance(cluster::SIZE.get());
        assert!(
            begun < reached && reached <= segment.start(cluster::SIZE),
            "{reached}"
        );
        error
    }

    /// The failure is gone: the same directory is recovered to the end.
    pub async fn recovers(&self) {
        let result = self.restore.run().await.unwrap();
        assert_eq!(result.end_lsn, Some(fixture().await.end));
        assert_eq!(self.restore.rows().await, (5000, Some(4000), Some(8999)));
    }

    pub fn reached(&self) -> Option<Lsn> {
        FetchProgress::read(&self.restore.job.fetch.progress).reached
    }

    /// PostgreSQL keeps what it was given under its name.
    pub fn handed_out_nothing_wrong(&self) {
        let mut count = 0;
        for entry in fs::read_dir(self.restore.pgdata().join("pg_wal")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(!name.ends_with(".partial"), "{name}");
            let Ok(segment) = name.parse::<SegmentName>() else {
                continue;
            };
            let written = fs::read(self.original(segment)).unwrap();
            assert!(fs::read(&path).unwrap() == written, "{name}");
            count += 1;
        }
        assert!(count > 0, "PostgreSQL kept nothing");
    }

    fn original(&self, segment: SegmentName) -> PathBuf {
        let root = self.restore.root().parent().unwrap();
        root.join("wal").join(segment.to_string())
    }
}

fn lineage(server: &server::Server, spec: &PgArchiveSpec) -> Lineage {
    let archive = Archive::new(server.store(), spec, "shop-orders");
    archive.unwrap().lineage(cluster::LINEAGE.parse().unwrap())
}

/// The segment of timeline 1 with the byte at `lsn`.
pub fn segment_of(lsn: Lsn) -> SegmentName {
    SegmentName::containing(TimelineId::FIRST, lsn, cluster::SIZE)
}

/// A segment that PostgreSQL has not asked for when the first ones are on their way, and not the last one.
pub async fn middle() -> SegmentName {
    let fixture = fixture().await;
    let middle = fixture.start.advance(5 * cluster::SIZE.get());
    assert!(middle.advance(2 * cluster::SIZE.get()) < fixture.end);
    segment_of(middle)
}
