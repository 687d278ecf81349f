//! What a request does, decided without I/O.

use std::time::Duration;

use tonic::Status;

use super::{Code, Copying, CreationTime, Failure, Fault};
use crate::pool::Snapshot;

/// What one CreateSnapshot request does.
#[derive(Debug)]
pub struct Plan {
    /// The cut.
    pub cut: Cut,
    /// The answer, after the cut if that is [`Cut::Now`]; none is success.
    pub error: Option<Status>,
}

/// When a cut is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Not by this request: it exists, or the request fails.
    None,
    /// After the delay, and then the answer.
    Now(Duration, How),
    /// Made, then forgotten.
    Lost(Duration, How),
    /// The delay begins with the answer, which is an error.
    AfterError(Duration, How),
    /// The delay begins with the answer, which is a success.
    AfterOk(Duration, How),
    /// When the snapshot is deleted.
    AfterDelete,
}

/// How a cut is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// At one moment.
    Atomic,
    /// File by file, with this wait before each.
    FileByFile(Duration),
}

/// `earlier` requests for the same name have been answered before this one; `exists` says whether
/// the driver has the snapshot on record.
pub fn decide(fault: &Fault, earlier: u32, exists: bool) -> Plan {
    let delay = Duration::from_millis(fault.delay_before_cut);
    let how = how(fault.non_atomic_cut);
    if let Some(error) = due(fault.error_before_cut.as_ref(), earlier) {
        let cut = match fault.cut_after_error {
            Some(after) if !exists => Cut::AfterError(Duration::from_millis(after), how),
            _ => Cut::None,
        };
        return Plan {
            cut,
            error: Some(error),
        };
    }
    if !exists && earlier < fault.lost_cuts {
        let error = Some(Status::unavailable(
            "the connection to the storage was lost",
        ));
        return Plan {
            cut: Cut::Lost(delay, how),
            error,
        };
    }
    let error = due(fault.error_after_cut.as_ref(), earlier);
    let cut = match () {
        () if exists => Cut::None,
        () if fault.cut_after_delete => Cut::AfterDelete,
        () if fault.ok_before_cut => Cut::AfterOk(delay, how),
        () => Cut::Now(delay, how),
    };
    Plan { cut, error }
}

/// What a caller is told of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Ready to restore from.
    pub ready: bool,
    /// In nanoseconds since the epoch.
    pub created_ns: Option<i64>,
    /// The smallest volume it fits in; 0 is unknown.
    pub size: i64,
}

/// What a caller is told of the snapshot now.
pub fn seen(snapshot: &Snapshot, fault: &Fault, now_ns: i64) -> Seen {
    let age = now_ns.saturating_sub(snapshot.created_ns);
    let wait = i64::try_from(fault.delay_to_ready)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    Seen {
        ready: !fault.never_ready && age >= wait,
        created_ns: match fault.creation_time {
            None => Some(snapshot.created_ns),
            Some(CreationTime::Zero) => Some(0),
            Some(CreationTime::Absent) => None,
            Some(CreationTime::Offset(by)) => Some(
                snapshot
                    .created_ns
                    .saturating_add(by.saturating_mul(1_000_000)),
            ),
        },
        size: fault.restore_size.unwrap_or(snapshot.capacity),
    }
}

/// How a cut is made under this fault.
pub fn how(copying: Option<Copying>) -> How {
    match copying {
        None => How::Atomic,
        Some(Copying { delay_per_file }) => How::FileByFile(Duration::from_millis(delay_per_file)),
    }
}

fn due(failure: Option<&Failure>, earlier: u32) -> Option<Status> {
    let failure = failure.filter(|failure| failure.times.is_none_or(|times| earlier < times))?;
    let message = failure
        .message
        .as_deref()
        .unwrap_or("a fault was switched on");
    Some(Status::new(failure.code.into(), message))
}

impl From<Code> for tonic::Code {
    fn from(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::Cancelled,
            Code::Unknown => Self::Unknown,
            Code::InvalidArgument => Self::InvalidArgument,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::OutOfRange => Self::OutOfRange,
            Code::Unimplemented => Self::Unimplemented,
            Code::Internal => Self::Internal,
            Code::Unavailable => Self::Unavailable,
            Code::DataLoss => Self::DataLoss,
            Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const NO: Duration = Duration::ZERO;

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).unwrap()
    }

    /// The cut and the code of the answer.
    fn given(json: &str, earlier: u32, exists: bool) -> (Cut, Option<tonic::Code>) {
        let plan = decide(&fault(json), earlier, exists);
        (plan.cut, plan.error.map(|error| error.code()))
    }

    #[test]
    fn without_a_fault_the_cut_is_made_once() {
        assert_eq!(given("{}", 0, false), (Cut::Now(NO, How::Atomic), None));
        assert_eq!(given("{}", 1, true), (Cut::None, None));
    }

    #[test]
    fn delays_and_copies_change_the_cut_alone() {
        let delay = Duration::from_millis(5);
        let json = r#"{"delayBeforeCut": 5}"#;
        assert_eq!(given(json, 0, false), (Cut::Now(delay, How::Atomic), None));
        let json = r#"{"nonAtomicCut": {"delayPerFile": 5}}"#;
        assert_eq!(
            given(json, 0, false),
            (Cut::Now(NO, How::FileByFile(delay)), None)
        );
    }

    #[test]
    fn errors_before_the_cut_end_after_their_times() {
        let json = r#"{"errorBeforeCut": {"code": "Aborted", "times": 2}}"#;
        let aborted = (Cut::None, Some(tonic::Code::Aborted));
        assert_eq!(given(json, 0, false), aborted);
        assert_eq!(given(json, 1, false), aborted);
        assert_eq!(given(json, 2, false), (Cut::Now(NO, How::Atomic), None));
        let json = r#"{"errorBeforeCut": {"code": "Internal"}}"#;
        assert_eq!(
            given(json, 99, false),
            (Cut::None, Some(tonic::Code::Internal))
        );
    }

    #[test]
    fn an_error_can_be_followed_by_the_cut() {
        let json = r#"{"errorBeforeCut": {"code": "DeadlineExceeded"}, "cutAfterError": 7}"#;
        let code = Some(tonic::Code::DeadlineExceeded);
        let later = Cut::AfterError(Duration::from_millis(7), How::Atomic);
        assert_eq!(given(json, 0, false), (later, code));
        assert_eq!(given(json, 1, true), (Cut::None, code));
    }

    #[test]
    fn an_error_after_the_cut_leaves_the_cut() {
        let json = r#"{"errorAfterCut": {"code": "Internal", "times": 2}}"#;
        let code = Some(tonic::Code::Internal);
        assert_eq!(given(json, 0, false), (Cut::Now(NO, How::Atomic), code));
        assert_eq!(given(json, 1, true), (Cut::None, code));
        assert_eq!(given(json, 2, true), (Cut::None, None));
    }

    #[test]
    fn rogues_answer_first() {
        let json = r#"{"okBeforeCut": true, "delayBeforeCut": 5}"#;
        let later = Cut::AfterOk(Duration::from_millis(5), How::Atomic);
        assert_eq!(given(json, 0, false), (later, None));
        assert_eq!(given(json, 1, true), (Cut::None, None));
        assert_eq!(
            given(r#"{"cutAfterDelete": true}"#, 0, false),
            (Cut::AfterDelete, None)
        );
    }

    #[test]
    fn lost_cuts_are_cut_anew() {
        let json = r#"{"lostCuts": 1}"#;
        let code = Some(tonic::Code::Unavailable);
        assert_eq!(given(json, 0, false), (Cut::Lost(NO, How::Atomic), code));
        assert_eq!(given(json, 1, false), (Cut::Now(NO, How::Atomic), None));
    }

    #[test]
    fn what_a_caller_is_told() {
        let created_ns = 10_000_000;
        let snapshot = Snapshot {
            id: String::new(),
            name: String::new(),
            volume: String::new(),
            capacity: 9,
            created_ns,
            group: None,
            labels: BTreeMap::new(),
        };
        let at = |json: &str, now| seen(&snapshot, &fault(json), now);
        let plain = Seen {
            ready: true,
            created_ns: Some(created_ns),
            size: 9,
        };
        let not_ready = Seen {
            ready: false,
            ..plain
        };
        assert_eq!(at("{}", created_ns), plain);
        assert_eq!(at(r#"{"neverReady": true}"#, i64::MAX), not_ready);
        assert_eq!(at(r#"{"delayToReady": 5}"#, 14_999_999), not_ready);
        assert_eq!(at(r#"{"delayToReady": 5}"#, 15_000_000), plain);
        assert_eq!(
            at(r#"{"restoreSize": 0}"#, created_ns),
            Seen { size: 0, ..plain }
        );
        let wrong = |created_ns| Seen {
            created_ns,
            ..plain
        };
        assert_eq!(
            at(r#"{"creationTime": "zero"}"#, created_ns),
            wrong(Some(0))
        );
        assert_eq!(at(r#"{"creationTime": "absent"}"#, created_ns), wrong(None));
        assert_eq!(
            at(r#"{"creationTime": {"offset": -4}}"#, created_ns),
            wrong(Some(6_000_000))
        );
    }
}
