//! A namespace, a PostgreSQL on the volume of the pod that stands for it, and an archive.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgArchive, PgBackup, PgBackupPolicy, PgProtection, conditions, names},
    archive::LineageId,
    kubernetes::apply_status,
};
use highwater_e2e::{
    bench::cluster::Cluster,
    flow::{Lifeline, wire::Record},
    harness::postgres::program,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    fixture::{Fixture, apply, condition},
    wait::until,
};

/// What is written to all the time.
pub const TABLE: &str = "ledger";
/// A row each tenth of a second; whoever is asked knows what was committed by then.
const WRITES: &str = "CREATE TABLE ledger (id int PRIMARY KEY, text text NOT NULL); \
    CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN \
      FOR n IN 1 .. 1000000 LOOP \
        INSERT INTO ledger VALUES (n, repeat(n::text, 20)); COMMIT; PERFORM pg_sleep(0.1); \
      END LOOP; END $$";
/// The protection, and its StatefulSet.
pub const PROTECTION: &str = "orders";
const VERSION: &str = "highwater.dev/v1alpha1";

/// All that one life sent.
#[derive(Default)]
pub struct Life {
    pub controllers: Vec<Lifeline>,
    pub agents: Vec<Lifeline>,
    pub wires: Vec<Record>,
}

/// Where lives are lived, one after the other.
pub struct Site {
    pub fixture: Fixture,
    pub database: Cluster,
    /// The one that the first backup was in.
    pub lineage: OnceLock<LineageId>,
    /// The slot of the protection.
    pub slot: String,
    life: Mutex<Life>,
    names: AtomicUsize,
    /// Rows that were committed before a backup was asked for, by its name.
    owed: Mutex<BTreeMap<String, i64>>,
    /// Behind the database, which is on a volume: the socket's path must be short.
    directory: TempDir,
}

/// Where the database is on its volume.
const ROOT: &str = "postgres";
/// And its files, there and in a snapshot of it.
pub const PGDATA: &str = "postgres/data";

impl Site {
    pub async fn new(client: Client, namespace: &str) -> Result<Self> {
        let readable = PermissionsExt::from_mode(0o755);
        let directory = tempfile::Builder::new()
            .prefix("highwater-sweep-")
            .permissions(readable)
            .tempdir()?;
        std::fs::create_dir(directory.path().join("archive"))?;
        let fixture = Fixture::empty(client, namespace).await?;
        let volume = fixture.bound("data-orders-0").await?;
        let database = start(&directory, &volume).context("failed to start PostgreSQL")?;
        let slot = declare(&fixture, &volume).await?;
        Ok(Self {
            fixture,
            database,
            lineage: OnceLock::new(),
            slot,
            life: Mutex::default(),
            names: AtomicUsize::new(0),
            owed: Mutex::default(),
            directory,
        })
    }

    pub fn archive_directory(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    /// What was sent in this life.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new life, with so long for a backup.
    pub async fn begin(&self, seconds: u64) -> Result<()> {
        *self.life() = Life::default();
        let policies = self.fixture.api::<PgBackupPolicy>();
        let spec = json!({
            "archive": "main", "wal": {"transport": "sql"}, "deadlines": {"backup": format!("{seconds}s")},
        });
        let object = json!({"apiVersion": VERSION, "kind": "PgBackupPolicy", "metadata": {"name": "gold"}, "spec": spec});
        apply(&policies, "gold", object).await?;
        Ok(())
    }

    /// Asks for a backup under a new name.
    pub async fn ask(&self) -> Result<PgBackup> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let name = format!("backup-{number}");
        let count = format!("SELECT count(*) FROM {TABLE}");
        let owed = tokio::task::block_in_place(|| self.database.sql(&count))?;
        self.owes(&name, owed.parse()?);
        self.fixture.ask_for_backup(&name, PROTECTION).await
    }

    /// So many rows must be in what the backup restores to.
    pub fn owes(&self, backup: &str, rows: i64) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.insert(backup.to_owned(), rows);
    }

    /// How many rows the backup owes, once.
    pub fn no_more_owed(&self, backup: &str) -> Option<i64> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.remove(backup)
    }

    /// When it is completed, or has failed.
    pub async fn decided(&self, asked: &PgBackup) -> Result<PgBackup> {
        let (api, name) = (self.fixture.api::<PgBackup>(), asked.name_any());
        until("the backup is decided", || async {
            let backup = api.get(&name).await?;
            let list = backup.status.as_ref().map(|it| it.conditions.as_slice());
            let completed = conditions::find(list.unwrap_or_default(), conditions::COMPLETED);
            let is_decided = completed.is_some_and(|it| it.status != "Unknown");
            Ok(is_decided.then_some(backup))
        })
        .await
    }

    /// What a failure leaves to be looked at.
    pub async fn told(&self) -> String {
        let backups = self.fixture.api::<PgBackup>();
        let backups = backups.list(&ListParams::default()).await;
        let states = backups.into_iter().flatten().map(|backup| {
            let status = backup.status.unwrap_or_default();
            format!("{:?}: {:#?}", backup.metadata.name, status.conditions)
        });
        let mut told: Vec<_> = states.collect();
        let life = self.life();
        for (who, lines) in [("controller", &life.controllers), ("agent", &life.agents)] {
            for (number, line) in lines.iter().enumerate() {
                told.push(format!("{who} {}:", number + 1));
                let sent = line.sent();
                told.extend(sent.iter().map(|it| format!("  {it} {:?}", it.answer)));
            }
        }
        for (number, wire) in life.wires.iter().enumerate() {
            told.push(format!("statements of agent {}:", number + 1));
            let statements = wire.statements();
            told.extend(statements.iter().map(|it| {
                let text: String = it.text.chars().take(90).collect();
                format!("  {} {} {text}", it.sent, it.connection)
            }));
        }
        told.join("\n")
    }

    /// Deletes the namespace. It is not waited for.
    pub async fn close(&self) -> Result<()> {
        tokio::task::block_in_place(|| self.database.stop())?;
        let namespaces = Api::<Namespace>::all(self.fixture.client.clone());
        namespaces
            .delete(&self.fixture.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

/// On this machine's own address, where a [`highwater_e2e::flow::wire::Wire`] leads; nothing that it writes must last.
fn start(directory: &TempDir, volume: &Path) -> Result<Cluster> {
    let port = {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        free.local_addr()?.port()
    };
    let programs = program("initdb");
    let programs = programs.parent().context("no folder of programs")?;
    let (root, folder) = (directory.path().join("postgres"), volume.join(ROOT));
    let cluster = Cluster::new(programs, &root, port)?;
    // As new() leaves it, owner and all.
    let moved = Command::new("cp")
        .arg("-a")
        .args([&root, &folder])
        .status()?;
    ensure!(moved.success(), "failed to make {}", folder.display());
    fs::remove_dir(&root)?;
    symlink(&folder, &root)?;
    let small = ["--wal-segsize=1", "--auth-host=trust"];
    let settings = "listen_addresses = '127.0.0.1'\nfsync = off\nautovacuum = off";
    tokio::task::block_in_place(|| {
        cluster.init(&small, settings)?;
        cluster.start()?;
        cluster.sql(WRITES)
    })?;
    // It ends with the database.
    cluster
        .command("psql")
        .args(["-qXc", "CALL fill()"])
        .stderr(Stdio::null())
        .spawn()?;
    Ok(cluster)
}

/// A pod that has the node's address, as PostgreSQL has; and what the agent and the door ask for. The slot's name.
async fn declare(fixture: &Fixture, volume: &Path) -> Result<String> {
    let (uid, address) = fixture.pod(&volume.display().to_string(), true).await?;
    let archive = json!({"apiVersion": VERSION, "kind": "PgArchive", "metadata": {"name": "main"},
        "spec": {"directory": {"persistentVolumeClaim": "archive"}}});
    apply(&fixture.api::<PgArchive>(), "main", archive).await?;
    let protection = json!({"apiVersion": VERSION, "kind": "PgProtection", "metadata": {"name": PROTECTION},
        "spec": {"statefulSet": PROTECTION, "policy": "gold"}});
    let protections = fixture.api::<PgProtection>();
    let protection = apply(&protections, PROTECTION, protection).await?;
    let status = json!({
        "archiveName": PROTECTION, "conditions": [condition(conditions::ACTIVE)],
        "members": [{"pod": "orders-0", "uid": uid, "address": address}],
    });
    apply_status(&protections, PROTECTION, "test", &status).await?;
    Ok(names::slot(&protection.uid().context("no UID")?))
}
