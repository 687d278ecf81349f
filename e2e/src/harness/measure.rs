//! What the main job takes: measured from outside, through the API server.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use highwater::clock::{Clock, SystemClock};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Kubectl, marks::Mark, until};

/// The label of agents' pods.
pub const AGENTS: &str = "app.kubernetes.io/component=agent";
/// How long a database has written nothing when memory is measured: after 20 s the agent counts it as idle.
const IDLE: Duration = Duration::from_secs(25);
/// The longest to wait for that: autovacuum comes once a minute.
const NEVER_IDLE: Duration = Duration::from_secs(240);

/// The longest that a watch may lag behind.
const LATE: Duration = Duration::from_secs(10);

/// When each thing was first seen. A watch is told within milliseconds of the write.
pub struct Watch {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    watches: Vec<Child>,
    /// The same moment by both clocks: the database runs on this machine.
    began: (Instant, Timestamp),
}

/// One line for each change: a name, and what [`facts`] reads from the rest.
const WATCHED: [(&str, &str); 3] = [
    (
        "pgb",
        "NAME:.metadata.name,TYPES:.status.conditions[*].type,STATUSES:.status.conditions[*].status",
    ),
    ("volumesnapshot", "NAME:.metadata.name"),
    (
        "volumesnapshotcontent",
        "OF:.spec.volumeSnapshotRef.uid,CUT:.status.creationTime",
    ),
];

/// What one backup took, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct BackupTimes {
    /// From `Session` to `Stopped`, without the cut.
    pub beside_cut: f64,
    /// From the return of `pg_backup_start` to `Stopped`.
    pub session: f64,
    /// From the return of `pg_backup_start` to that of `pg_backup_stop`, as the agent says.
    pub backup_mode: f64,
    /// From the first VolumeSnapshot to the last creation time.
    pub cut: f64,
    /// From the object to `Completed`, without the checkpoint.
    pub beside_checkpoint: f64,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// kubectl cannot run.
    pub fn start(kubectl: &Kubectl, namespace: &str) -> Result<Self> {
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let watch = |(kind, columns)| {
            let output = format!("custom-columns={columns}");
            let mut args = vec!["-n", namespace, "get", kind, "--watch", "--no-headers"];
            args.extend(["-o", &output]);
            let mut command = Command::from(kubectl.command(&args));
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command
                .kill_on_drop(true)
                .spawn()
                .context("failed to start kubectl")?;
            let output = child.stdout.take().context("kubectl has no output")?;
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    note(&seen, kind, &line);
                }
            });
            Ok(child)
        };
        let watches = WATCHED.map(watch).into_iter().collect::<Result<_>>()?;
        let began = (Instant::now(), SystemClock.now());
        Ok(Self {
            seen,
            watches,
            began,
        })
    }

    /// Seconds from a time of the database's clock.
    fn since(&self, time: &Value, to: Instant) -> Result<f64> {
        let time: Timestamp = text(time)?.parse().context("failed to read a time")?;
        let (instant, clock) = self.began;
        let before = time.duration_since(clock).as_secs_f64();
        Ok(seconds(instant, to) - before)
    }

    fn at(&self, thing: &str) -> Result<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let at = seen.get(thing).copied();
        at.with_context(|| {
            let watches = self.watches.len();
            format!("none of {watches} watches saw: {thing}")
        })
    }

    /// What this completed backup took.
    ///
    /// # Errors
    /// One of its steps was not seen.
    pub async fn backup(&self, backup: &Value) -> Result<BackupTimes> {
        // The watch may be told a little later than whoever asked.
        until("every step of the backup seen", LATE, || {
            self.times(backup).map(Some)
        })
        .await
    }

    fn times(&self, backup: &Value) -> Result<BackupTimes> {
        let name = text(&backup["metadata"]["name"])?;
        let step = |fact: &str| self.at(&format!("pgb {name} {fact}"));
        let snapshots = backup["status"]["volumes"]
            .as_array()
            .context("no volumes")?;
        let (mut created, mut cut) = (Vec::new(), Vec::new());
        for volume in snapshots {
            let snapshot = text(&volume["volumeSnapshot"])?;
            created.push(self.at(&format!("volumesnapshot {snapshot} created"))?);
            let uid = text(&volume["volumeSnapshotUid"])?;
            let content = format!("volumesnapshotcontent {uid} cut");
            cut.push(self.at(&content)?);
        }
        let created = created.into_iter().min().context("no volumes")?;
        let cut = cut.into_iter().max().context("no volumes")?;
        let cut = seconds(created, cut);
        let session = &backup["status"]["session"];
        let said = |field: &str| {
            let seconds = session[field].as_f64();
            seconds.with_context(|| format!("the backup does not say {field}"))
        };
        let checkpoint = said("checkpointSeconds")?;
        Ok(BackupTimes {
            beside_cut: seconds(step("Session")?, step("Stopped")?) - cut,
            session: self.since(&session["startedAt"], step("Stopped")?)?,
            backup_mode: said("backupModeSeconds")?,
            cut,
            beside_checkpoint: seconds(step("created")?, step("Completed")?) - checkpoint,
        })
    }
}

fn note(seen: &Mutex<HashMap<String, Instant>>, kind: &str, line: &str) {
    let now = Instant::now();
    let mut words = line.split_whitespace();
    let Some(name) = words.next() else { return };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for fact in facts(kind, words) {
        seen.entry(format!("{kind} {name} {fact}")).or_insert(now);
    }
}

/// What a line says of its object: that it is there, that it is cut, the conditions that are true.
fn facts<'a>(kind: &str, mut words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let (first, second) = (words.next(), words.next());
    if kind == "volumesnapshotcontent" {
        return Vec::from_iter(first.filter(|time| *time != "<none>").map(|_| "cut"));
    }
    let types = first.unwrap_or_default().split(',');
    let statuses = second.unwrap_or_default().split(',');
    let holding = types.zip(statuses).filter(|(_, status)| *status == "True");
    std::iter::once("created")
        .chain(holding.map(|(type_, _)| type_))
        .collect()
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("a name is missing in the status")
}

/// What a restore took, from the object to the first query, without the replay that its status tells.
///
/// # Errors
/// The status does not tell the replay.
pub fn beside_replay(begin: Instant, first_query: Instant, restore: &Value) -> Result<f64> {
    let replay = restore["status"]["progress"]["replaySeconds"]
        .as_f64()
        .context("the restore does not say what its replay took")?;
    Ok(seconds(begin, first_query) - replay)
}

/// What each pod with this label tells of itself, in Prometheus' text format.
///
/// # Errors
/// There is no such pod, or it does not answer.
pub fn metrics(kubectl: &Kubectl, namespace: &str, label: &str) -> Result<Vec<String>> {
    let names = kubectl.run(&["-n", namespace, "get", "pod", "-l", label, "-o", "name"])?;
    let pods: Vec<&str> = names.split_whitespace().collect();
    anyhow::ensure!(
        !pods.is_empty(),
        "no pod in {namespace} has the label {label}"
    );
    let ask = |pod: &str| {
        let pod = pod.trim_start_matches("pod/");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics");
        kubectl.run(&["get", "--raw", &path])
    };
    pods.into_iter().map(ask).collect()
}

/// Resident megabytes of each pod with this label, as the pods tell themselves.
///
/// # Errors
/// As [`metrics`].
pub fn resident(kubectl: &Kubectl, namespace: &str, label: &str) -> Result<Vec<f64>> {
    let told = metrics(kubectl, namespace, label)?;
    let resident = |metrics: &String| {
        let bytes = metrics
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        let bytes: f64 = bytes.context("the pod does not tell its memory")?.parse()?;
        Ok(bytes / 1e6)
    };
    told.iter().map(resident).collect()
}

/// Waits until a database that nobody writes to is idle: background writer, checkpointer and autovacuum have their word first.
///
/// # Errors
/// It goes on writing, or does not answer.
pub async fn idle(client: &tokio_postgres::Client) -> Result<()> {
    let begin = Instant::now();
    let mut last = (String::new(), begin);
    while last.1.elapsed() < IDLE {
        ensure!(begin.elapsed() < NEVER_IDLE, "the database goes on writing");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let row = client
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .await?;
        let now: String = row.get(0);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(())
}

/// Samples of everything that the main job promises.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// What backups took.
    pub backups: Vec<BackupTimes>,
    /// What restores took beside their replay, in seconds.
    pub restores: Vec<f64>,
    /// Resident megabytes of an agent that has nothing to do.
    pub agent: Vec<f64>,
    /// Resident megabytes of controllers.
    pub controller: Vec<f64>,
}

impl Job {
    /// Notes the memory of the agents in `namespace` and of the controllers.
    ///
    /// # Errors
    /// As [`resident`].
    pub fn note_memory(&mut self, kubectl: &Kubectl, namespace: &str) -> Result<()> {
        let label = AGENTS;
        self.agent.extend(resident(kubectl, namespace, label)?);
        let label = "app.kubernetes.io/component=controller";
        let controllers = resident(kubectl, "highwater-system", label)?;
        self.controller.extend(controllers);
        Ok(())
    }

    /// Against the limits.
    ///
    /// # Errors
    /// Something was not measured.
    pub fn marks(&self) -> Result<Vec<Mark>> {
        let of =
            |value: fn(&BackupTimes) -> f64| self.backups.iter().map(value).collect::<Vec<_>>();
        let cut = of(|times| times.cut);
        let stop = of(|times| times.beside_cut);
        let complete = of(|times| times.beside_checkpoint);
        Ok(vec![
            Mark::of(
                ("cut of the snapshots", "s"),
                None,
                "watch: VolumeSnapshot created to creationTime in its content",
                &cut,
            )?,
            Mark::of(
                ("backup, Session to Stopped, beside the cut", "s"),
                Some(0.3),
                "watch: PgBackup's condition Session to Stopped, minus the cut",
                &stop,
            )?,
            Mark::of(
                ("backup to Completed, beside the checkpoint", "s"),
                Some(2.5),
                "watch: PgBackup created to Completed, minus session.checkpointSeconds",
                &complete,
            )?,
            Mark::of(
                ("restore to first query, beside the replay", "s"),
                Some(8.0),
                "clock: before PgRestore is sent to the answer of a query, minus progress.replaySeconds",
                &self.restores,
            )?,
            Mark::of(
                ("agent, resident, idle", "MB"),
                Some(20.0),
                "process_resident_memory_bytes of the agent, when its database has written no WAL for 25 s",
                &self.agent,
            )?,
            Mark::of(
                ("controller, resident", "MB"),
                Some(40.0),
                "process_resident_memory_bytes of both replicas",
                &self.controller,
            )?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_is_a_fact() {
        let of = |kind, line: &'static str| facts(kind, line.split_whitespace());
        assert_eq!(of("pgb", "<none> <none>"), ["created"]);
        let line = "Accepted,Cut,Session True,False,True";
        assert_eq!(of("pgb", line), ["created", "Accepted", "Session"]);
        assert_eq!(of("volumesnapshot", ""), ["created"]);
        assert!(of("volumesnapshotcontent", "<none>").is_empty());
        assert_eq!(of("volumesnapshotcontent", "1763716911208093000"), ["cut"]);
    }
}
