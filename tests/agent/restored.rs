//! A base backup of a running database, and what recovery makes of it and of an archive.

use std::{fs, path::Path, process::Command};

use highwater::{
    api::{PgArchiveSpec, RestorePlan},
    archive::{BACKUP_LABEL, FORMAT, Lineage, Manifest, Request, backup_key, plan::plan, sha256},
    postgres::{
        Lsn,
        backup_mode::{self, Started, Stopped},
        server::{self, ServerFacts},
    },
    recovery::{
        Base, base,
        beside::Exchange,
        fetch::{FetchConfig, MountedPaths},
        job::{self, Job},
    },
};
use tokio::sync::watch;

use crate::database::{Database, programs::hand_over};

/// The copy of a data directory that was taken in backup mode, and its backup in the catalog.
pub struct BaseBackup {
    copy: tempfile::TempDir,
    /// Replay begins here.
    pub start: Lsn,
    /// A restore is consistent from here.
    pub stop: Lsn,
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// A folder that the user can reach whom PostgreSQL runs as.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("highwater-restored-")
        .tempdir()
        .unwrap();
    hand_over(folder.path(), 0o755);
    folder
}

impl BaseBackup {
    pub async fn take(database: &Database, lineage: &Lineage) -> Self {
        let (client, directory) = (database.client().await, folder());
        let facts = server::facts(&client).await.unwrap();
        let started = backup_mode::start(&client, "base", true).await.unwrap();
        copy(&database.data(), &directory.path().join("data"));
        let stopped = backup_mode::stop(&client).await.unwrap();
        // The copy's is a link to where the database writes.
        let wal = directory.path().join("data/pg_wal");
        fs::remove_file(&wal).unwrap();
        fs::create_dir(&wal).unwrap();
        hand_over(&wal, 0o700);
        let key = backup_key("base", "0", 1);
        let manifest = manifest(lineage, facts, &started, &stopped);
        let label = lineage.put_backup_file(&key, BACKUP_LABEL, stopped.label.into());
        label.await.unwrap();
        lineage.put_manifest(&key, &manifest).await.unwrap();
        Self {
            copy: directory,
            start: started.start_lsn,
            stop: stopped.stop_lsn,
        }
    }

    /// Recovers a copy of it to the end of the archive in `directory`, as a recovery pod does, and starts that.
    pub async fn restore(&self, directory: &Path, lineage: &Lineage) -> Database {
        let spec = serde_json::json!({"directory": {"persistentVolumeClaim": "archive"}});
        let spec: PgArchiveSpec = serde_json::from_value(spec).unwrap();
        let mounted = MountedPaths {
            credentials: None,
            ca: None,
            decryption: None,
            directory: directory.to_owned(),
        };
        hand_over(directory, 0o755);
        let place = folder();
        copy(&self.copy.path().join("data"), place.path());
        let plan = latest(lineage).await;
        let mut base = base(&spec, &mounted, &plan).await.unwrap();
        let size = base.segment_size;
        base.source.data_directory = place.path().join("data");
        let job = job(spec, mounted, plan, base, place.path());
        let progress = serde_json::from_value(serde_json::json!({"percent": "0%", "segments": 0}));
        let (progress, (_stop, mut stopped)) =
            (watch::channel(progress.unwrap()).0, watch::channel(false));
        job::run(&job, &progress, &mut stopped).await.unwrap();
        let restored = Database::at(place, size);
        restored.boot();
        restored
    }
}

/// As the agent writes it, but for the volumes.
fn manifest(
    lineage: &Lineage,
    facts: ServerFacts,
    started: &Started,
    stopped: &Stopped,
) -> Manifest {
    Manifest {
        format: FORMAT,
        name: "base".into(),
        uid: "0".into(),
        namespace: "shop".into(),
        stateful_set_name: "orders".into(),
        lineage: lineage.id().clone(),
        system_identifier: facts.system_identifier,
        major_version: i32::try_from(facts.major).unwrap(),
        segment_size: facts.segment_size,
        timeline: started.timeline,
        start_lsn: started.start_lsn,
        stop_lsn: stopped.stop_lsn,
        started_at: started.at,
        stopped_at: stopped.at,
        backup_label_sha256: sha256(stopped.label.as_bytes()),
        tablespace_map_sha256: None,
        data_directory: facts.data_directory.display().to_string(),
        wal_directory: None,
        tablespaces: Vec::new(),
        user: "postgres".into(),
        database: "postgres".into(),
        settings: facts.settings,
        volumes: Vec::new(),
        stateful_set: None,
    }
}

/// As the agent plans it.
async fn latest(lineage: &Lineage) -> RestorePlan {
    let request = Request {
        backup: None,
        target: None,
        archive: "main".into(),
        archive_name: "orders".into(),
        can_decrypt: false,
        ended: Vec::new(),
    };
    plan(&request, &lineage.contents().await.unwrap()).unwrap()
}

fn job(
    archive: PgArchiveSpec,
    mounted: MountedPaths,
    plan: RestorePlan,
    base: Base,
    place: &Path,
) -> Job {
    let work = place.join("run");
    Job {
        restore: "latest".into(),
        texts: base.texts,
        source: base.source,
        fetch: FetchConfig {
            archive,
            mounted,
            plan,
            line: base.line,
            segment_size: base.segment_size,
            deadline_seconds: 10,
            progress: work.join("progress.json"),
            socket: Some(work.join("fetch.sock")),
        },
        work,
        verify: None,
        exchange: Exchange {
            request: place.join("check-request"),
            answer: place.join("check-answer"),
            address: [127, 0, 0, 1].into(),
        },
        program: env!("CARGO_BIN_EXE_highwater").into(),
    }
}
