//! Names that follow from other names, so that a restarted program finds what it made.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::postgres::{Lsn, TimelineId};

/// The longest name of most objects (DNS-1123 subdomain).
const LONGEST: usize = 253;
/// The longest label value, and the longest name of objects whose name becomes one.
const LONGEST_LABEL: usize = 63;

/// `parts` joined by hyphens; cut, with a hash of the whole at the end, where that would be longer than `longest`.
fn join(parts: &[&str], longest: usize) -> String {
    let whole = parts.join("-");
    if whole.len() <= longest {
        return whole;
    }
    let hash = hex::encode(&Sha256::digest(whole.as_bytes())[..5]);
    let kept: String = whole.chars().take(longest - hash.len() - 1).collect();
    format!("{}-{hash}", kept.trim_end_matches(['-', '.']))
}

/// `name` as the value of a label.
pub fn label(name: &str) -> String {
    join(&[name], LONGEST_LABEL)
}

/// Deployment and RoleBinding of a protection's agent.
pub fn agent(protection: &str) -> String {
    join(&[protection, "highwater"], LONGEST_LABEL)
}

/// The ServiceAccount of a protection's agent. `manifests/roles/admission.yaml` tells by it what the agent may write to, and
/// knows no hashes: names that are longer than [`LONGEST_OWNER`] are refused.
pub fn agent_account(protection: &str) -> String {
    join(&[protection, "highwater"], LONGEST)
}

/// The longest name of a PgProtection or PgRestore whose account has the whole of it in its name.
pub const LONGEST_OWNER: usize = LONGEST - "-highwater".len();

/// The first backup of a lineage.
pub fn first_backup(protection: &str, lineage: &str) -> String {
    join(&[protection, lineage], LONGEST_LABEL)
}

/// The backup that this value of the annotation `highwater.dev/backup-now` asks for.
pub fn annotation_backup(protection: &str, value: &str) -> String {
    let hash = hex::encode(&Sha256::digest(value.as_bytes())[..5]);
    join(&[protection, "now", &hash], LONGEST_LABEL)
}

/// The backup that a schedule asks for at this time, without jitter: schedules that come together share it.
pub fn scheduled_backup(protection: &str, due: Timestamp) -> String {
    let due = due.strftime("%Y%m%dt%H%M%Sz").to_string();
    join(&[protection, &due], LONGEST_LABEL)
}

/// The drill that the policy asks for at this time, without jitter.
pub fn scheduled_drill(protection: &str, due: Timestamp) -> String {
    let due = due.strftime("%Y%m%dt%H%M%Sz").to_string();
    join(&[protection, "drill", &due], LONGEST_LABEL)
}

/// The backup that closes a gap: the one from which the WAL of `timeline` from `from` on can be replayed. `count` such
/// backups have failed before.
pub fn gap_backup(
    protection: &str,
    lineage: &str,
    timeline: TimelineId,
    from: Lsn,
    count: u32,
) -> String {
    let gap = format!("gap-{}-{:x}-{count}", timeline.get(), from.get());
    join(&[protection, lineage, &gap], LONGEST_LABEL)
}

/// A VolumeSnapshot: never the same for two backups, attempts or claims.
pub fn volume_snapshot(backup: &str, backup_uid: &str, attempt: u32, claim: &str) -> String {
    let uid = backup_uid.get(..8).unwrap_or(backup_uid);
    join(&[backup, uid, &attempt.to_string(), claim], LONGEST)
}

/// A VolumeGroupSnapshot: never the same for two backups or attempts.
pub fn volume_group_snapshot(backup: &str, backup_uid: &str, attempt: u32) -> String {
    let uid = backup_uid.get(..8).unwrap_or(backup_uid);
    join(&[backup, uid, &attempt.to_string()], LONGEST)
}

/// The value of the label by which the VolumeGroupSnapshot of an attempt selects its claims.
pub fn group_label(backup_uid: &str, attempt: u32) -> String {
    join(&[backup_uid, &attempt.to_string()], LONGEST_LABEL)
}

/// The attempt in the name of a VolumeSnapshot of this backup; none in a name that was cut.
pub fn attempt_of(backup: &str, backup_uid: &str, volume_snapshot: &str) -> Option<u32> {
    let uid = backup_uid.get(..8).unwrap_or(backup_uid);
    let rest = volume_snapshot.strip_prefix(&format!("{backup}-{uid}-"))?;
    rest.split_once('-')?.0.parse().ok()
}

/// Recovery pod and its RoleBinding.
pub fn recovery(restore: &str) -> String {
    join(&[restore, "recovery"], LONGEST_LABEL)
}

/// The recovery pod's ServiceAccount, by which, as in [`agent_account`], it is known to be this restore's.
pub fn recovery_account(restore: &str) -> String {
    join(&[restore, "recovery"], LONGEST)
}

/// Planning pod and its RoleBinding.
pub fn planning(restore: &str) -> String {
    join(&[restore, "planning"], LONGEST_LABEL)
}

/// The planning pod's ServiceAccount, by which, as in [`agent_account`], it is known to be this restore's.
pub fn planning_account(restore: &str) -> String {
    join(&[restore, "planning"], LONGEST)
}

/// What is kept of a claim that a restore in place gives another volume: the claim of the old volume, and its VolumeSnapshot.
pub fn before(claim: &str, restore: &str) -> String {
    join(&[claim, "before", restore], LONGEST)
}

/// The replication slot of a protection: letters, digits and underscores (PostgreSQL manual, section 27.2.6).
pub fn slot(protection_uid: &str) -> String {
    let hash = hex::encode(&Sha256::digest(protection_uid.as_bytes())[..5]);
    format!("highwater_{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = ("a".repeat(80), "a".repeat(81));
        assert_eq!(agent(&a).len(), 63);
        assert_ne!(agent(&a), agent(&b));
    }

    /// What `manifests/roles/admission.yaml` compares with.
    #[test]
    fn accounts_have_the_whole_name_of_their_owner() {
        let owner = "a".repeat(LONGEST_OWNER);
        assert_eq!(agent_account(&owner), format!("{owner}-highwater"));
        assert_eq!(recovery_account(&owner), format!("{owner}-recovery"));
        assert_eq!(planning_account(&owner), format!("{owner}-planning"));
        assert!(agent_account(&owner).len() <= LONGEST);
        assert_ne!(
            agent_account(&format!("{owner}a")),
            format!("{owner}a-highwater")
        );
    }

    #[test]
    fn a_snapshots_name_tells_its_attempt() {
        let uid = "0123456789";
        let name = volume_snapshot("nightly-2", uid, 17, "data-3-orders-0");
        assert_eq!(name, "nightly-2-01234567-17-data-3-orders-0");
        for (backup, uid, expected) in [
            ("nightly-2", uid, Some(17)),
            ("nightly", uid, None),
            ("nightly-2", "1123456789", None),
        ] {
            assert_eq!(attempt_of(backup, uid, &name), expected, "{backup} {uid}");
        }
    }
}
