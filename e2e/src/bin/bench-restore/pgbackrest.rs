//! The same by pgBackRest: a PostgreSQL on this machine with the same content, its WAL and its backup in the cluster's object
//! store; restored into an empty folder, started, and asked when it is promoted.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use highwater_e2e::{
    bench::{
        cluster::Cluster,
        peers::Peers,
        pgbackrest::{FOLDERS, Repository, STANZA, configure},
        scratch,
    },
    harness::connect,
};
use jiff::civil::DateTime;
use serde::Serialize;
use tokio_postgres::Client;

use crate::content::{self, Size};

/// In the bucket.
pub const FOLDER: &str = "bench-pgbackrest";
/// As the pod of `manifests/postgres.yaml` has them; times of the log are read.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nmax_wal_size = 1GB\ncheckpoint_timeout = 5min\nlog_timezone = 'UTC'\n\
    log_line_prefix = '%m [%p] '\n";
/// For the longest recovery.
const LIMIT: Duration = Duration::from_secs(600);
/// How often one asks whether it is over.
const LOOK: Duration = Duration::from_millis(10);

/// Where everything is.
#[derive(clap::Args)]
pub struct Place {
    /// What `e2e/bench/peers.sh` printed.
    #[arg(long, required_if_eq("part", "peer"))]
    peers: Option<PathBuf>,
    /// PostgreSQL's programs: of the cluster's major version.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    postgres: PathBuf,
    /// A folder that every user may enter, with room for the greatest database and its copy.
    #[arg(long, default_value = "/var/tmp/highwater-bench-restore")]
    scratch: PathBuf,
}

/// A database whose backup is in the store, and which is gone.
pub struct Subject {
    program: PathBuf,
    config: PathBuf,
    cluster: Cluster,
    size: Size,
}

/// Seconds that a restore took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Time {
    /// From its start to the first query.
    pub total: f64,
    /// What `pgbackrest restore` took of it.
    pub restore: f64,
    /// From PostgreSQL's start to its promotion, as its log has it.
    pub replay: f64,
}

impl Place {
    /// A database of that size, its backup, and some commits behind it, in the object store at `endpoint`.
    pub async fn filled(&self, endpoint: &str, size: Size) -> Result<Subject> {
        let peers = self.peers.as_deref().context("want --peers")?;
        let program = Peers::read(peers)?.path("pgbackrest")?;
        let root = self.scratch.join(format!("gb-{}", size.gigabytes()));
        println!("filling {}", root.display());
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = Cluster::new(&self.postgres, &root, port)?;
        let quiet = format!("{SETTINGS}wal_level = minimal\nmax_wal_senders = 0\n");
        cluster.init(&["--auth-host=trust", "--data-checksums"], &quiet)?;
        let repository = repository(endpoint, size);
        let subject = Subject {
            config: written(&cluster, &repository)?,
            program,
            cluster,
            size,
        };
        subject.cluster.start()?;
        content::fill(&subject.address(), size).await?;
        subject.cluster.stop()?;
        subject.back_up().await?;
        Ok(subject)
    }

    /// Leaves nothing behind.
    pub fn clear(&self) -> Result<()> {
        scratch::remove(&self.scratch)
    }
}

fn repository(endpoint: &str, size: Size) -> Repository {
    // As `manifests/object-store.yaml` has it.
    Repository {
        endpoint: endpoint.to_owned(),
        bucket: "highwater".into(),
        path: format!("/{FOLDER}/gb-{}", size.gigabytes()),
        key_id: "highwater".into(),
        secret: "highwater-secret-key".into(),
    }
}

/// Its configuration, readable by PostgreSQL, with many small files in one object, which a store is faster with.
fn written(cluster: &Cluster, repository: &Repository) -> Result<PathBuf> {
    let global = "process-max=2\nrepo1-bundle=y\nrepo1-retention-full=1\nstart-fast=y\n";
    let database = format!(
        "pg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
        cluster.port,
        cluster.root.display()
    );
    let pgdata = cluster.root.join("data");
    // PostgreSQL's log lies beside it.
    let root = cluster.root.join("pgbackrest");
    scratch::empty(&root)?;
    let config = configure(&root, &pgdata, repository, (global, &database))?;
    for folder in FOLDERS {
        cluster.hand_over(&root.join(folder))?;
    }
    Ok(config)
}

impl Subject {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.cluster.port)
    }

    fn data(&self) -> PathBuf {
        self.cluster.root.join("data")
    }

    fn pgbackrest(&self, arguments: &[&str]) -> Result<()> {
        let program = self.program.to_str().context("a path is no text")?;
        let config = format!("--config={}", self.config.display());
        let stanza = format!("--stanza={STANZA}");
        let all = [&[config.as_str(), stanza.as_str()], arguments].concat();
        self.cluster.run(program, &all).map(drop)
    }

    /// With archiving, and then it goes away: what is restored comes from the store.
    async fn back_up(&self) -> Result<()> {
        let (program, config) = (self.program.display(), self.config.display());
        let push = format!("{program} --config={config} --stanza={STANZA} archive-push %p");
        let settings = format!("{SETTINGS}archive_mode = on\narchive_command = '{push}'\n");
        self.cluster.configure(&settings)?;
        self.cluster.start()?;
        self.pgbackrest(&["stanza-create"])?;
        self.pgbackrest(&["backup", "--type=full"])?;
        content::commit(&self.address()).await?;
        // PostgreSQL archives all that it has before it ends.
        self.cluster.stop()?;
        scratch::remove(&self.data())
    }

    /// To latest, into an empty folder; it must have all rows.
    pub async fn restore(&self, round: u32) -> Result<Time> {
        let data = self.data();
        scratch::empty(&data)?;
        self.cluster.hand_over(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        let log = self.cluster.root.join("log");
        if log.exists() {
            fs::remove_file(&log)?;
        }
        content::sync()?;
        let begin = Instant::now();
        // What a copy archives would be the next round's latest.
        self.pgbackrest(&["restore", "--process-max=2", "--archive-mode=off"])?;
        let restore = begin.elapsed().as_secs_f64();
        let start = ["-D", "data", "-l", "log", "-W", "start"];
        self.cluster.run("pg_ctl", &start)?;
        let session = promoted(&self.address()).await?;
        let commits = content::first_query(&session).await?;
        let total = begin.elapsed().as_secs_f64();
        content::check(&session, self.size, commits).await?;
        self.cluster.stop()?;
        let replay = replay(&String::from_utf8(scratch::read(&log)?)?)?;
        scratch::remove(&data)?;
        let gigabytes = self.size.gigabytes();
        println!(
            "pgBackRest, {gigabytes} GB, round {round}: {total:.2} s, restore {restore:.2} s, replay {replay:.2} s"
        );
        Ok(Time {
            total,
            restore,
            replay,
        })
    }
}

/// A session with the database that is not in recovery any more.
async fn promoted(address: &str) -> Result<Client> {
    let begin = Instant::now();
    loop {
        // It refuses sessions until its copy is consistent.
        if let Ok(session) = connect(address).await {
            let over = "SELECT NOT pg_is_in_recovery()";
            if session.query_one(over, &[]).await?.get(0) {
                return Ok(session);
            }
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "the database at {address} is not promoted"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Seconds between two lines of PostgreSQL's log: from its start to its being ready.
fn replay(log: &str) -> Result<f64> {
    let at = |word: &str| -> Result<DateTime> {
        let line = log.lines().find(|line| line.contains(word));
        let line = line.with_context(|| format!("PostgreSQL did not log: {word}"))?;
        let time = line.split(" UTC ").next().unwrap_or(line);
        time.parse()
            .with_context(|| format!("failed to read the time of: {line}"))
    };
    let start = at("starting PostgreSQL")?;
    ensure!(
        log.contains("archive recovery complete"),
        "PostgreSQL recovered nothing"
    );
    let ready = at("database system is ready to accept connections")?;
    Ok(ready.duration_since(start).as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const LOG: &str = "\
2026-11-23 20:59:59.900 UTC [7] LOG:  starting PostgreSQL 15.13 on x86_64-pc-linux-gnu\n\
2026-11-23 21:00:00.100 UTC [8] LOG:  consistent recovery state reached at 0/2000100\n\
2026-11-23 21:00:00.101 UTC [7] LOG:  database system is ready to accept read-only connections\n\
2026-11-23 21:00:00.900 UTC [8] LOG:  archive recovery complete\n\
2026-11-23 21:00:01.150 UTC [7] LOG:  database system is ready to accept connections\n";

    #[test]
    fn the_log_says_how_long_the_replay_was() {
        assert!((replay(LOG).unwrap() - 1.25).abs() < 1e-9);
        let crashed = LOG.replace("archive recovery complete", "redo is not required");
        assert!(replay(&crashed).is_err());
        assert!(replay(&LOG.replace("21:00:01.150", "now")).is_err());
        assert!(replay("").is_err());
    }
}
