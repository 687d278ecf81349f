//! What a VolumeSnapshot and its content say together. Pure.

use jiff::Timestamp;

use super::{VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotError};

/// A snapshot that is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The content's name.
    pub content: String,
    /// The snapshot's CSI handle.
    pub handle: String,
    /// When it was cut, by the driver's clock: to display, never to compare.
    pub at: Timestamp,
    /// The least size of a volume made from it, in bytes.
    pub restore_size: Option<i64>,
    /// Trouble after the cut. It ends nothing: the sidecar goes on.
    pub trouble: Option<String>,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not cut, no trouble.
    Pending,
    /// Not cut, and the last try failed. The sidecar tries for ever: it may be cut at any time, also after it was
    /// given up.
    Failed {
        /// What driver, sidecar or controller say.
        message: String,
    },
    /// The moment is fixed; the driver may still be busy with it.
    Cut(Cut),
    /// A volume can be made from it.
    Ready(Cut),
}

impl Reading {
    /// The cut, where there is one.
    pub const fn cut(&self) -> Option<&Cut> {
        match self {
            Self::Cut(cut) | Self::Ready(cut) => Some(cut),
            Self::Pending | Self::Failed { .. } => None,
        }
    }
}

/// The name that the snapshot controller gives to the content of a snapshot of a claim. Where to look, not whom to trust.
pub fn content_name(volume_snapshot_uid: &str) -> String {
    format!("snapcontent-{volume_snapshot_uid}")
}

/// Whether the two point at each other, by name and by UID. Anybody can write one of the pointers.
pub fn bound(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent) -> bool {
    let there = pointer(snapshot);
    there.is_some() && there == content.metadata.name.as_ref() && points_back(snapshot, content)
}

/// Whether what `content` says is about `snapshot`: they are bound, or the snapshot points at none yet and the snapshot
/// controller made the content for it, by the name that only its UID gives. The controller writes the snapshot's own
/// pointer last, and later than the cut where it is busy: backup mode need not wait for it, readiness does.
pub fn is_content_of(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent) -> bool {
    let name = snapshot.metadata.uid.as_deref().map(content_name);
    let made_for = pointer(snapshot).is_none()
        && name == content.metadata.name
        && content.spec.source.volume_handle.is_some()
        && points_back(snapshot, content);
    made_for || bound(snapshot, content)
}

fn pointer(snapshot: &VolumeSnapshot) -> Option<&String> {
    let status = snapshot.status.as_ref();
    status.and_then(|status| status.bound_volume_snapshot_content_name.as_ref())
}

fn points_back(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent) -> bool {
    let back = &content.spec.volume_snapshot_ref;
    let uid = snapshot.metadata.uid.as_ref().filter(|uid| !uid.is_empty());
    uid.is_some()
        && back.uid.as_ref() == uid
        && back.name == snapshot.metadata.name
        && back.namespace == snapshot.metadata.namespace
}

/// Reads both. A content of another snapshot ([`is_content_of`]) counts as none, and so does a cut without a time or a
/// handle: a driver that gives no time yields 1970, and nothing can be restored without a handle.
/// Ready is only what is bound both ways.
pub fn reading(snapshot: &VolumeSnapshot, content: Option<&VolumeSnapshotContent>) -> Reading {
    let content = content.filter(|content| is_content_of(snapshot, content));
    let status = content.and_then(|content| content.status.as_ref());
    let content_error = status.and_then(|status| text(status.error.as_ref()));
    let cut = content.zip(status).and_then(|(content, status)| {
        Some(Cut {
            content: content.metadata.name.clone()?,
            handle: status
                .snapshot_handle
                .clone()
                .filter(|handle| !handle.is_empty())?,
            at: cut_time(status.creation_time)?,
            restore_size: status.restore_size.filter(|size| *size > 0),
            trouble: content_error.clone(),
        })
    });
    let ready = status.is_some_and(|status| status.ready_to_use == Some(true))
        && content.is_some_and(|content| bound(snapshot, content));
    match cut {
        Some(cut) if ready => Reading::Ready(cut),
        Some(cut) => Reading::Cut(cut),
        None => content_error
            .or_else(|| text(snapshot.status.as_ref().and_then(|s| s.error.as_ref())))
            .map_or(Reading::Pending, |message| Reading::Failed { message }),
    }
}

fn cut_time(nanoseconds: Option<i64>) -> Option<Timestamp> {
    let nanoseconds = nanoseconds.filter(|nanoseconds| *nanoseconds > 0)?;
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

fn text(error: Option<&VolumeSnapshotError>) -> Option<String> {
    let message = error?.message.clone();
    Some(message.unwrap_or_else(|| "an error without a message".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot() -> VolumeSnapshot {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1"},
            "spec": {"source": {"persistentVolumeClaimName": "data"}},
            "status": {"boundVolumeSnapshotContentName": "snapcontent-u1", "readyToUse": false},
        }))
        .unwrap()
    }

    fn content(status: serde_json::Value) -> VolumeSnapshotContent {
        serde_json::from_value(json!({
            "metadata": {"name": "snapcontent-u1"},
            "spec": {
                "volumeSnapshotRef": {"name": "a", "namespace": "shop", "uid": "u1"},
                "deletionPolicy": "Delete", "driver": "d", "source": {"volumeHandle": "v"},
            },
            "status": status,
        }))
        .unwrap()
    }

    const AT: i64 = 1_700_000_000_123_456_789;

    fn word(reading: &Reading) -> &'static str {
        match reading {
            Reading::Pending => "pending",
            Reading::Failed { .. } => "failed",
            Reading::Cut(_) => "cut",
            Reading::Ready(_) => "ready",
        }
    }

    #[test]
    fn reads_what_the_content_says() {
        let error = json!({"message": "409"});
        for (name, status, expected) in [
            ("no status", json!(null), "pending"),
            ("empty", json!({}), "pending"),
            (
                "cut",
                json!({"creationTime": AT, "snapshotHandle": "h"}),
                "cut",
            ),
            (
                "cut, not ready",
                json!({"creationTime": AT, "snapshotHandle": "h", "readyToUse": false}),
                "cut",
            ),
            (
                "ready",
                json!({"creationTime": AT, "snapshotHandle": "h", "readyToUse": true}),
                "ready",
            ),
            (
                "1970",
                json!({"creationTime": 0, "snapshotHandle": "h", "readyToUse": true}),
                "pending",
            ),
            (
                "before 1970",
                json!({"creationTime": -1, "snapshotHandle": "h"}),
                "pending",
            ),
            (
                "ready without a time",
                json!({"snapshotHandle": "h", "readyToUse": true}),
                "pending",
            ),
            (
                "no handle",
                json!({"creationTime": AT, "readyToUse": true}),
                "pending",
            ),
            (
                "empty handle",
                json!({"creationTime": AT, "snapshotHandle": ""}),
                "pending",
            ),
            ("error before the cut", json!({"error": error}), "failed"),
            (
                "error after the cut",
                json!({"creationTime": AT, "snapshotHandle": "h", "error": error}),
                "cut",
            ),
            (
                "error, and ready",
                json!({"creationTime": AT, "snapshotHandle": "h", "readyToUse": true, "error": error}),
                "ready",
            ),
        ] {
            let read = reading(&snapshot(), Some(&content(status)));
            assert_eq!(word(&read), expected, "{name}");
        }
    }

    #[test]
    fn a_cut_keeps_what_a_restore_needs_and_the_trouble_after_it() {
        let status = json!({"creationTime": AT, "snapshotHandle": "h", "restoreSize": 5, "error": {"message": "slow"}});
        let read = reading(&snapshot(), Some(&content(status)));
        let cut = read.cut().unwrap();
        assert_eq!(
            (cut.content.as_str(), cut.handle.as_str()),
            ("snapcontent-u1", "h")
        );
        assert_eq!(cut.at.as_nanosecond(), i128::from(AT));
        assert_eq!(
            (cut.restore_size, cut.trouble.as_deref()),
            (Some(5), Some("slow"))
        );
        let zero = json!({"creationTime": AT, "snapshotHandle": "h", "restoreSize": 0});
        assert_eq!(
            reading(&snapshot(), Some(&content(zero)))
                .cut()
                .unwrap()
                .restore_size,
            None
        );
    }

    #[test]
    fn only_a_binding_both_ways_by_uid_counts() {
        let good = content(json!({"creationTime": AT, "snapshotHandle": "h", "readyToUse": true}));
        assert!(bound(&snapshot(), &good));
        type Change = fn(&mut VolumeSnapshot, &mut VolumeSnapshotContent);
        let changes: [(&str, Change); 8] = [
            ("other UID", |_, c| {
                c.spec.volume_snapshot_ref.uid = Some("u2".into())
            }),
            ("no UID", |_, c| c.spec.volume_snapshot_ref.uid = None),
            ("neither has a UID", |s, c| {
                s.metadata.uid = None;
                c.spec.volume_snapshot_ref.uid = None;
            }),
            ("other name", |_, c| {
                c.spec.volume_snapshot_ref.name = Some("b".into())
            }),
            ("other namespace", |_, c| {
                c.spec.volume_snapshot_ref.namespace = Some("n".into())
            }),
            ("the snapshot names another", |s, _| {
                s.status
                    .as_mut()
                    .unwrap()
                    .bound_volume_snapshot_content_name = Some("other".into());
            }),
            (
                "it names none, and the content is not named after it",
                |s, c| {
                    s.status = None;
                    c.metadata.name = Some("snapcontent-u2".into());
                },
            ),
            ("it names none, and the content was taken over", |s, c| {
                s.status = None;
                c.spec.source.volume_handle = None;
            }),
        ];
        for (name, change) in changes {
            let (mut snapshot, mut content) = (snapshot(), good.clone());
            change(&mut snapshot, &mut content);
            assert!(!bound(&snapshot, &content), "{name}");
            assert_eq!(
                reading(&snapshot, Some(&content)),
                Reading::Pending,
                "{name}"
            );
        }
    }

    #[test]
    fn a_cut_need_not_wait_for_the_snapshots_own_pointer_but_readiness_does() {
        let ready = content(json!({"creationTime": AT, "snapshotHandle": "h", "readyToUse": true}));
        let mut snapshot = snapshot();
        assert_eq!(word(&reading(&snapshot, Some(&ready))), "ready");
        snapshot.status = None;
        assert_eq!(word(&reading(&snapshot, Some(&ready))), "cut");
    }

    #[test]
    fn the_snapshots_own_error_shows_while_there_is_no_content() {
        let mut snapshot = snapshot();
        snapshot.status =
            serde_json::from_value(json!({"error": {"message": "no class"}})).unwrap();
        let failed = Reading::Failed {
            message: "no class".into(),
        };
        assert_eq!(reading(&snapshot, None), failed);
    }
}
