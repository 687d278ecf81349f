use super::*;
use crate::{
    api::{PgBackupStatus, annotations, conditions},
    controller::backup::{
        depth::Depth,
        model::base::{base, proved},
        observe::Observed,
        validate::validate,
    },
};

fn without(observed: &mut Observed, types: &[&str]) {
    let status = observed.backup.status.as_mut().unwrap();
    status
        .conditions
        .retain(|condition| !types.contains(&condition.type_.as_str()));
}

fn step_at(observed: &Observed, now: &str) -> Step {
    let now = now.parse().unwrap();
    plan(&validate(observed, now), now).step
}

/// Snapshots cut after the end of backup mode look like any other, and every later step would go through.
#[test]
fn a_stop_before_the_cut_was_written_down_voids_the_attempt() {
    let now = "2026-01-01T00:03:00Z";
    let proved = proved();
    assert!(matches!(step_at(&proved, now), Step::Complete(_)));

    let mut stopped_first = proved.clone();
    without(&mut stopped_first, &[conditions::CUT]);
    let abandoned = Step::Abandon(Setback::StoppedBeforeCut);
    assert_eq!(step_at(&stopped_first, now), abandoned);
    let late = "2026-01-01T01:00:01Z";
    let failed = Step::Fail(Setback::StoppedBeforeCut);
    assert_eq!(step_at(&stopped_first, late), failed);

    // How the session ended says nothing of it.
    without(&mut stopped_first, &[conditions::SESSION]);
    assert_eq!(step_at(&stopped_first, now), abandoned);

    let mut in_backup_mode = proved;
    without(&mut in_backup_mode, &[conditions::CUT, conditions::STOPPED]);
    let step = step_at(&in_backup_mode, now);
    assert!(
        matches!(
            step,
            Step::Await {
                what: Awaited::Stop,
                ..
            }
        ),
        "{step:?}"
    );
}

/// Backup mode has ended, and a bucket that is away is neither the agent's silence nor the backup's end.
#[test]
fn a_label_that_the_archive_does_not_take_yet_is_waited_for() {
    let mut keeping = proved();
    without(
        &mut keeping,
        &[conditions::STOPPED, conditions::WAL_ARCHIVED],
    );
    let silent = keeping.clone();
    let status = keeping.backup.status.as_mut().unwrap();
    conditions::upsert(
        &mut status.conditions,
        conditions::STOPPED,
        conditions::Status::Unknown,
        "ArchiveUnavailable",
        "failed to put the backup label",
        None,
        "2026-01-01T00:02:10Z".parse().unwrap(),
    );
    let deadlines = &keeping.policy.as_ref().unwrap().spec.deadlines;
    let cut: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
    let ceiling = after(cut, deadlines.backup_mode.get() + GRACE).to_string();
    let ready = after(cut, deadlines.ready.get()).to_string();
    let step = step_at(&silent, &ceiling);
    assert!(
        matches!(step, Step::Abandon(Setback::AgentSilent(_))),
        "{step:?}"
    );
    let step = step_at(&keeping, &ceiling);
    assert!(
        matches!(
            step,
            Step::Await {
                what: Awaited::Label,
                ..
            }
        ),
        "{step:?}"
    );
    let step = step_at(&keeping, &ready);
    assert!(
        matches!(step, Step::Fail(Setback::NotReadyInTime { .. })),
        "{step:?}"
    );
}

/// For a driver that names a creation time before it has cut.
#[test]
fn backup_mode_may_end_at_readiness_alone() {
    let mut open = proved();
    without(
        &mut open,
        &[
            conditions::CUT,
            conditions::STOPPED,
            conditions::WAL_ARCHIVED,
            conditions::READY,
            conditions::CATALOGUED,
        ],
    );
    for content in &mut open.contents {
        content.status.as_mut().unwrap().ready_to_use = Some(false);
    }
    let awaited = |observed: &Observed| match step_at(observed, "2026-01-01T00:03:00Z") {
        Step::Await { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(awaited(&open), Awaited::Stop);
    let status = open.backup.status.as_mut().unwrap();
    status.attempt.as_mut().unwrap().release_at = crate::api::ReleaseAt::Ready;
    assert_eq!(awaited(&open), Awaited::Cut);
    for content in &mut open.contents {
        content.status.as_mut().unwrap().ready_to_use = Some(true);
    }
    assert_eq!(awaited(&open), Awaited::Stop);
}

/// What is said, and told of by a watch when it changes, is neither read nor said again.
#[test]
fn a_backup_at_the_door_waits_for_what_a_watch_tells() {
    let mut held = base();
    held.backup.metadata.finalizers = Some(vec![annotations::BACKUP_FINALIZER.to_owned()]);
    held.ahead = Some("older".to_owned());
    let now = "2026-01-01T00:03:00Z";
    let queued = || Rejection::Queued("older".to_owned());
    assert_eq!(step_at(&held, now), Step::Hold(queued()));

    let mut list = Vec::new();
    let status = conditions::Status::False;
    let (reason, message) = (queued().reason(), queued().to_string());
    let then = now.parse().unwrap();
    conditions::upsert(
        &mut list,
        conditions::ACCEPTED,
        status,
        reason,
        message,
        None,
        then,
    );
    held.backup.status = Some(PgBackupStatus {
        conditions: list,
        ..PgBackupStatus::default()
    });
    let plan = plan(&validate(&held, then), then);
    let until = "2026-01-01T01:00:00Z".parse().unwrap();
    let what = Awaited::Door;
    assert_eq!(plan.step, Step::Await { what, until });
    assert_eq!(plan.needs(&held.backup), Depth::Told);
    let late = "2026-01-01T01:00:00Z";
    let failed = Step::Fail(Setback::Rejected(queued()));
    assert_eq!(step_at(&held, late), failed);

    held.ahead = Some("another".to_owned());
    let another = Rejection::Queued("another".to_owned());
    assert_eq!(step_at(&held, now), Step::Hold(another));

    // Nothing watches pods.
    held.ahead = None;
    held.source.as_mut().unwrap().pod = None;
    let gone = Rejection::PrimaryNotRunning("orders-0".to_owned());
    let mut said = held.backup.status.take().unwrap();
    said.conditions[0].reason = gone.reason().to_owned();
    said.conditions[0].message = gone.to_string();
    held.backup.status = Some(said);
    assert_eq!(step_at(&held, now), Step::Hold(gone));
}

/// Its entry in the catalog goes before its snapshots, if there is somebody to delete it and anybody wants the data to go.
#[test]
fn a_deleted_backup_leaves_the_catalog_first() {
    let now = "2026-01-01T00:03:00Z";
    let mut going = proved();
    going.backup.metadata.deletion_timestamp = serde_json::from_value(now.into()).unwrap();
    let mark = annotations::BACKUP_FINALIZER.to_owned();
    going.backup.metadata.finalizers = Some(vec![mark]);
    let planned = |observed: &Observed| {
        let now = now.parse().unwrap();
        plan(&validate(observed, now), now)
    };
    let say = |observed: &mut Observed, type_: &str, value| {
        let status = observed.backup.status.as_mut().unwrap();
        let at = now.parse().unwrap();
        conditions::upsert(&mut status.conditions, type_, value, "R", "", None, at);
    };
    let first = planned(&going);
    assert_eq!((first.step, first.sweep.len()), (Step::Discard, 0));
    say(&mut going, conditions::DISCARDED, conditions::Status::True);
    let waits = planned(&going);
    assert_eq!(
        (waits.step, waits.sweep.len()),
        (forever(Awaited::Uncatalogued), 0)
    );

    let mut kept = going.clone();
    kept.scope_goes = true;
    assert_eq!(planned(&kept).step, Step::Release, "the namespace goes");
    let mut read = going.clone();
    read.read_by = Some("clone".to_owned());
    let waits = planned(&read);
    assert_eq!(
        (waits.step, waits.sweep.len()),
        (forever(Awaited::Restored), 0),
        "a restore begins with it"
    );
    let mut ended = going.clone();
    ended.protection = None;
    assert!(
        !planned(&ended).sweep.is_empty(),
        "nobody is there to delete it"
    );
    let late = "2026-01-01T00:05:00Z".parse().unwrap();
    let late = plan(&validate(&going, late), late);
    assert!(
        !late.sweep.is_empty(),
        "a bucket that is away holds up no finalizer"
    );
    say(
        &mut going,
        conditions::CATALOGUED,
        conditions::Status::False,
    );
    let swept = planned(&going);
    assert_eq!(swept.step, forever(Awaited::Gone));
    assert!(!swept.sweep.is_empty());
    let mut never_began = going.clone();
    never_began.backup.status.as_mut().unwrap().session = None;
    without(
        &mut never_began,
        &[conditions::DISCARDED, conditions::CATALOGUED],
    );
    assert!(!planned(&never_began).sweep.is_empty(), "it has no entry");
}
