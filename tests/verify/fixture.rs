//! An archive of two timelines in a directory, made once by a real PostgreSQL, and copied for each test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use highwater::{
    api::PgArchiveSpec,
    archive::{
        Archive, BACKUP_LABEL, ClockPair, Contents, FORMAT, Identities, IndexEntry, Lineage,
        Manifest, MountedSecrets, retention::Expired, sha256, store,
    },
    postgres::{Lsn, SegmentName, TimelineId, wal},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::site::{Cluster, Site, hand_over};

pub const NAME: &str = "shop-orders";
pub const BACKUP: &str = "nightly-0badcafe-1";

/// The archive that is copied.
pub struct Fixture {
    pub archive: PathBuf,
}

pub fn spec() -> PgArchiveSpec {
    let spec = json!({"prefix": "prod/", "directory": {"persistentVolumeClaim": "wal"}});
    serde_json::from_value(spec).unwrap()
}

pub fn open(directory: &Path, spec: &PgArchiveSpec) -> Archive {
    let mounted = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: directory.to_owned(),
    };
    Archive::new(store::open(spec, &mounted).unwrap(), spec, NAME).unwrap()
}

pub async fn only_lineage(archive: &Archive) -> Lineage {
    let all = archive.lineages().await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    archive.lineage(all[0].lineage.clone())
}

/// A configuration for the archive in `directory`.
pub fn configure(directory: &Path, state: &Path, to: &Path) {
    let text = format!(
        "archive: {{prefix: prod/, directory: {{persistentVolumeClaim: wal}}}}\narchiveName: {NAME}\n\
         directory: {}\nstateDirectory: {}\n",
        directory.display(),
        state.display(),
    );
    fs::write(to, text).unwrap();
}

/// The fixture, made at the first call.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let made = std::thread::spawn(make);
        made.join().unwrap()
    })
}

fn make() -> Fixture {
    let site = Site::new("verify-fixture");
    let archive = site.path("archive");
    fs::create_dir(&archive).unwrap();
    hand_over(&archive);
    configure(&archive, &site.path("state"), &site.config());
    let cluster = Cluster::init(site.path("data"), 1);
    cluster.archive_with(&site.push_command());
    cluster.start();
    cluster.sql("CREATE TABLE t (n int, filler text)");
    write(&cluster, 2);
    let manifest = backup(&cluster);
    write(&cluster, 3);
    cluster.sql("SELECT pg_create_restore_point('before'), pg_switch_wal()");
    write(&cluster, 1);
    fail_over(&cluster);
    write(&cluster, 4);
    cluster.archive_all();
    cluster.sql("INSERT INTO t SELECT n, 'in the tail' FROM generate_series(1, 500) n");
    let end: Lsn = cluster
        .sql("SELECT pg_current_wal_flush_lsn()")
        .parse()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(complete(&cluster, &archive, manifest, end));
    cluster.stop("immediate");
    age(&archive);
    let fixture = Fixture { archive };
    // It stays until the next run.
    std::mem::forget(site);
    fixture
}

/// What came a moment ago might be half done.
pub fn age(folder: &Path) {
    let aged = Command::new("find")
        .arg(folder)
        .args([
            "-type",
            "f",
            "-exec",
            "touch",
            "-d",
            "1 hour ago",
            "{}",
            "+",
        ])
        .status();
    assert!(aged.unwrap().success());
}

/// Fills `segments` segments more, each record on more than one page.
fn write(cluster: &Cluster, segments: usize) {
    for _ in 0..segments {
        cluster
            .sql("INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 3200) n");
    }
}

/// A base backup as the agent takes it, but for the volumes.
fn backup(cluster: &Cluster) -> (Manifest, String) {
    let said = cluster.sql(
        "SELECT pg_backup_start('verify', true); \
         SELECT lsn, replace(encode(convert_to(labelfile, 'UTF8'), 'hex'), E'\\n', '') FROM pg_backup_stop(false)",
    );
    let (start, rest) = said.split_once('\n').unwrap();
    let (stop, label) = rest.trim().split_once('|').unwrap();
    let label = String::from_utf8(hex::decode(label).unwrap()).unwrap();
    let identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    let now: Timestamp = cluster
        .sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        .parse()
        .unwrap();
    let manifest = Manifest {
        format: FORMAT,
        name: "nightly".into(),
        uid: "0badcafe-0000-0000-0000-000000000000".into(),
        namespace: "shop".into(),
        stateful_set_name: "orders".into(),
        lineage: "0123456789".parse().unwrap(),
        system_identifier: identifier.parse().unwrap(),
        major_version: 15,
        segment_size: cluster.size,
        timeline: TimelineId::FIRST,
        start_lsn: start.trim().parse().unwrap(),
        stop_lsn: stop.parse().unwrap(),
        started_at: now - SignedDuration::from_secs(1),
        stopped_at: now,
        backup_label_sha256: sha256(label.as_bytes()),
        tablespace_map_sha256: None,
        data_directory: "/var/lib/postgresql/data".into(),
        wal_directory: None,
        tablespaces: Vec::new(),
        user: "postgres".into(),
        database: "postgres".into(),
        settings: std::collections::BTreeMap::new(),
        volumes: Vec::new(),
        stateful_set: None,
    };
    (manifest, label)
}

/// The same server as a standby that is promoted: timeline 2.
fn fail_over(cluster: &Cluster) {
    cluster.stop("fast");
    let signal = cluster.pgdata.join("standby.signal");
    fs::write(&signal, "").unwrap();
    hand_over(&signal);
    cluster.start();
    assert_eq!(cluster.sql("SELECT pg_promote()"), "t");
    cluster.sql("CHECKPOINT");
    assert_eq!(cluster.timeline(), TimelineId::new(2).unwrap());
}

/// What an agent adds: the catalog, the unfinished segment in two parts, the clock, a roll-up.
async fn complete(cluster: &Cluster, archive: &Path, backup: (Manifest, String), end: Lsn) {
    let lineage = only_lineage(&open(archive, &spec())).await;
    let (mut manifest, label) = backup;
    manifest.lineage = lineage.id().clone();
    let put = lineage.put_backup_file(BACKUP, BACKUP_LABEL, label.into());
    put.await.unwrap();
    lineage.put_manifest(BACKUP, &manifest).await.unwrap();
    let (second, size) = (TimelineId::new(2).unwrap(), cluster.size);
    let name = SegmentName::containing(second, end, size);
    let bytes = fs::read(cluster.pgdata.join(format!("pg_wal/{name}"))).unwrap();
    let length = usize::try_from(size.offset(end)).unwrap();
    assert!(length > 16384, "{end}");
    for (from, to) in [(0, 8192), (8192, length)] {
        lineage
            .push_tail(name, from as u64, &bytes[..to], "e1", None)
            .await
            .unwrap();
    }
    let pair = ClockPair {
        lsn: end,
        at: manifest.stopped_at,
        timeline: second,
    };
    lineage.write_clock(pair).await.unwrap();
    lineage.put_expired(&Expired::default()).await.unwrap();
    // As if the next group had begun.
    let group = Lsn::new(256 * size.get());
    let later = SegmentName::containing(TimelineId::FIRST, group, size);
    lineage.roll_up(later, size).await.unwrap();
}

/// A copy for one test.
pub struct Copy {
    pub site: Site,
    pub directory: PathBuf,
}

impl Copy {
    pub fn new(name: &str) -> Self {
        let from = &fixture().archive;
        let site = Site::new(&format!("verify-{name}"));
        let directory = site.path("archive");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(&directory)
            .status();
        assert!(copied.unwrap().success());
        configure(&directory, &site.path("state"), &site.config());
        Self { site, directory }
    }

    /// The lineage's folder.
    pub fn root(&self) -> PathBuf {
        let all: Vec<PathBuf> = fs::read_dir(self.directory.join("prod").join(NAME))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    /// The objects in a folder of the lineage, by name.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        files(&self.root().join(folder))
    }
}

/// All files below a folder, by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Writes everything that the fixture's archive holds into another, under the same lineage.
pub async fn copy_into(to: &Archive) -> Contents {
    let from = only_lineage(&open(&fixture().archive, &spec())).await;
    let contents = from.contents().await.unwrap();
    let lineage = to.lineage(from.id().clone());
    lineage.create_identity(&contents.identity).await.unwrap();
    let second = TimelineId::new(2).unwrap();
    let history = from.fetch_history(second).await.unwrap();
    lineage.push_history(second, history.into()).await.unwrap();
    let identifier = Some(contents.identity.system_identifier);
    let size = contents.identity.segment_size;
    for name in contents.segments.keys() {
        let plain = from
            .fetch_segment(*name, size, name.end(size))
            .await
            .unwrap();
        let scan = wal::scan(&plain, *name, size, identifier, None).unwrap();
        let entry = IndexEntry::scanned(*name, size, &plain, &scan);
        lineage
            .push_segment(*name, plain.into(), &entry)
            .await
            .unwrap();
    }
    for (name, tail) in &contents.tails {
        let plain = from.fetch_segment(*name, size, tail.end).await.unwrap();
        let length = usize::try_from(size.offset(tail.end)).unwrap();
        let push = lineage.push_tail(*name, 0, &plain[..length], "e1", tail.records);
        push.await.unwrap();
    }
    for (folder, manifest) in &contents.backups {
        let label = from.backup_file(folder, BACKUP_LABEL).await.unwrap();
        let put = lineage.put_backup_file(folder, BACKUP_LABEL, label);
        put.await.unwrap();
        lineage.put_manifest(folder, manifest).await.unwrap();
    }
    for pair in &contents.clocks {
        lineage.write_clock(*pair).await.unwrap();
    }
    contents
}

/// A new key in a file, and what encrypts to it.
pub fn write_key(path: &Path) -> String {
    use age::secrecy::ExposeSecret as _;
    let key = age::x25519::Identity::generate();
    fs::write(path, key.to_string().expose_secret()).unwrap();
    assert!(Identities::read(path).is_ok());
    key.to_public().to_string()
}
