//! Fault switches: what the control file says, for whom, and how often it has been asked.
//!
//! The file is JSON, `{"faults": [{…}, …]}`, and is read again for each request; none, or no file,
//! means no fault. Of the faults that match a snapshot, the first one counts alone. Times are
//! milliseconds. Counts are of CreateSnapshot requests with the same snapshot name, since the driver
//! started.

mod decide;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tonic::Status;

pub use decide::{Cut, How, Plan, Seen, decide, seen};

use crate::pool::{Snapshot, Volume};

/// The control file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Control {
    /// The first one that matches counts.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// What goes wrong, and with which snapshots. Everything left out goes right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fault {
    /// The source volume: its id, its CSI name, or `namespace/claim`. `*` stands for anything.
    pub volume: Option<String>,
    /// The snapshot: its id, its CSI name, or `namespace/volumesnapshot`. `*` stands for anything.
    pub snapshot: Option<String>,

    /// The cut comes this long after the request. It comes even if the caller gives up; until then
    /// the same request is answered with `Aborted`.
    pub delay_before_cut: u64,
    /// Answer with an error and make no cut.
    pub error_before_cut: Option<Failure>,
    /// With `errorBeforeCut`: the cut is made nevertheless, this long after the first such answer.
    pub cut_after_error: Option<u64>,
    /// Make the cut, and answer with an error.
    pub error_after_cut: Option<Failure>,
    /// A rogue driver: answers that the cut is made, and makes it `delayBeforeCut` later.
    pub ok_before_cut: bool,
    /// A rogue driver: answers that the cut is made, and makes it when the snapshot is deleted.
    pub cut_after_delete: bool,
    /// The first so many cuts are made and forgotten: the answer is `Unavailable`, the snapshot
    /// stays in the pool without an owner, and the next request cuts anew.
    pub lost_cuts: u32,
    /// Instead of an atomic cut, files are copied one by one.
    pub non_atomic_cut: Option<Copying>,

    /// Not ready until so long after the cut.
    pub delay_to_ready: u64,
    /// Not ready, ever.
    pub never_ready: bool,
    /// Another creation time than the true one.
    pub creation_time: Option<CreationTime>,
    /// Another size than the true one. Restores are still checked against the true one.
    pub restore_size: Option<i64>,
    /// The answer is right, and afterwards the driver does not know the handle: no restore, not in
    /// a list.
    pub handle_lost: bool,
}

/// An error to answer with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// The text; a default without it.
    #[serde(default)]
    pub message: Option<String>,
    /// Only the first so many requests; all without it.
    #[serde(default)]
    pub times: Option<u32>,
}

/// gRPC codes, under gRPC's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "gRPC documents them")]
pub enum Code {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// How files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Copying {
    /// The wait before each file.
    pub delay_per_file: u64,
}

/// A creation time that is not the true one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CreationTime {
    /// The epoch.
    Zero,
    /// None at all.
    Absent,
    /// So many milliseconds after the true one, before it if negative.
    Offset(i64),
}

/// The control file and the counts.
#[derive(Default)]
pub struct Faults {
    control: Option<PathBuf>,
    requests: Mutex<HashMap<String, u32>>,
}

impl Faults {
    /// Faults by this file.
    pub fn new(control: Option<PathBuf>) -> Self {
        Self {
            control,
            ..Self::default()
        }
    }

    /// The fault for this snapshot, as the file says now; the volume may be gone.
    pub fn of(&self, snapshot: &Snapshot, volume: Option<&Volume>) -> Result<Fault, Status> {
        Ok(first_match(&self.read()?, snapshot, volume))
    }

    /// How many requests for this name came before this one.
    pub fn count(&self, name: &str) -> u32 {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = requests.entry(name.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    fn read(&self) -> Result<Control, Status> {
        let Some(path) = &self.control else {
            return Ok(Control::default());
        };
        let failed = |error: &dyn std::fmt::Display| {
            Status::internal(format!("failed to read {}: {error}", path.display()))
        };
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Control::default()),
            Err(e) => Err(failed(&e)),
        }
    }
}

fn first_match(control: &Control, snapshot: &Snapshot, volume: Option<&Volume>) -> Fault {
    let in_kubernetes = |labels: &std::collections::BTreeMap<String, String>, kind: &str| {
        let of = |what: &str| labels.get(&format!("csi.storage.k8s.io/{kind}/{what}"));
        Some(format!("{}/{}", of("namespace")?, of("name")?))
    };
    let mut volumes = vec![snapshot.volume.clone()];
    if let Some(volume) = volume {
        volumes.push(volume.name.clone());
        volumes.extend(in_kubernetes(&volume.labels, "pvc"));
    }
    let mut snapshots = vec![snapshot.id.clone(), snapshot.name.clone()];
    snapshots.extend(in_kubernetes(&snapshot.labels, "volumesnapshot"));

    let any = |pattern: &Option<String>, names: &[String]| match pattern {
        None => true,
        Some(pattern) => names.iter().any(|name| matches(pattern, name)),
    };
    let found = control
        .faults
        .iter()
        .find(|fault| any(&fault.volume, &volumes) && any(&fault.snapshot, &snapshots));
    found.cloned().unwrap_or_default()
}

/// Does the pattern, in which `*` stands for anything, match the whole name?
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            let mut ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn labels(kind: &str, namespace: &str, name: &str) -> BTreeMap<String, String> {
        let key = |what: &str| format!("csi.storage.k8s.io/{kind}/{what}");
        [
            (key("namespace"), namespace.to_owned()),
            (key("name"), name.to_owned()),
        ]
        .into()
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            id: "snap-1".into(),
            name: "snapshot-uid".into(),
            volume: "vol-1".into(),
            capacity: 1,
            created_ns: 0,
            group: None,
            labels: labels("volumesnapshot", "db", "nightly-1"),
        }
    }

    fn volume() -> Volume {
        Volume {
            id: "vol-1".into(),
            name: "pvc-uid".into(),
            capacity: 1,
            source: None,
            labels: labels("pvc", "db", "data-pg-0"),
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for pattern in ["*", "db/*", "*-0", "db/*-pg-*", "db/data-pg-0", "**"] {
            assert!(matches(pattern, "db/data-pg-0"), "{pattern}");
        }
        for pattern in ["", "db", "*-1", "db/*-pg-", "xdb/*", "db/data-pg-0*x"] {
            assert!(!matches(pattern, "db/data-pg-0"), "{pattern}");
        }
        assert!(matches("", "") && matches("*", "") && matches("ä*", "äöü"));
    }

    #[test]
    fn the_first_match_counts() {
        let text = r#"{"faults": [
            {"snapshot": "other*", "neverReady": true},
            {"volume": "db/data-pg-*", "snapshot": "db/nightly-*", "delayBeforeCut": 7},
            {"neverReady": true}
        ]}"#;
        let control: Control = serde_json::from_str(text).unwrap();
        let found = first_match(&control, &snapshot(), Some(&volume()));
        assert_eq!(found.delay_before_cut, 7);
        assert!(!found.never_ready);
        assert!(
            first_match(&control, &snapshot(), None).never_ready,
            "the volume is gone"
        );
        assert_eq!(
            first_match(&Control::default(), &snapshot(), None),
            Fault::default()
        );
    }

    #[test]
    fn all_switches_are_read_and_others_refused() {
        let text = r#"{"faults": [{
            "delayBeforeCut": 1, "delayToReady": 2, "neverReady": true, "okBeforeCut": true,
            "errorBeforeCut": {"code": "Aborted", "times": 5}, "cutAfterError": 3,
            "errorAfterCut": {"code": "DeadlineExceeded", "message": "slow"},
            "creationTime": {"offset": -1000}, "restoreSize": 0, "handleLost": true,
            "lostCuts": 1, "cutAfterDelete": true, "nonAtomicCut": {"delayPerFile": 4}
        }, {"creationTime": "zero", "nonAtomicCut": {}}, {"creationTime": "absent"}]}"#;
        let control: Control = serde_json::from_str(text).unwrap();
        assert_eq!(
            control.faults[0].creation_time,
            Some(CreationTime::Offset(-1000))
        );
        assert_eq!(control.faults[1].creation_time, Some(CreationTime::Zero));
        assert!(serde_json::from_str::<Control>(r#"{"faults": [{"delay": 1}]}"#).is_err());
    }

    #[test]
    fn requests_are_counted_by_name() {
        let faults = Faults::default();
        assert_eq!(
            [faults.count("a"), faults.count("a"), faults.count("b")],
            [0, 1, 0]
        );
    }
}
