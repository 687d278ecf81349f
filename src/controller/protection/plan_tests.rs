use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value as Json, json};

use super::{
    agent::Objects,
    observe::{AgentSeen, BackupSeen, Observed},
    plan::{Step, plan},
    report,
    validate::{Judgement, validate},
};
use crate::{
    api::{
        BackupReason, Primary, RecoveryWindow,
        conditions::{self, Status},
        names,
    },
    controller::Image,
    postgres::{Lsn, TimelineId},
};

const LINEAGE: &str = "k3v9q2m4tz";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn image() -> Image {
    Image {
        name: "registry.example/highwater:1".into(),
        pull_policy: "IfNotPresent".into(),
    }
}

/// A protection made from an annotation, whose agent is not deployed yet.
pub fn observed() -> Observed {
    let protection = json!({
        "metadata": {
            "name": "orders", "namespace": "shop", "uid": "u-1", "generation": 1,
            "finalizers": ["highwater.dev/protection"],
            "labels": {"highwater.dev/from-annotation": "true"},
        },
        "spec": {"statefulSet": "orders", "policy": "gold"},
        "status": {},
    });
    let set = json!({
        "metadata": {"name": "orders", "annotations": {"highwater.dev/policy": "gold"}},
        "spec": {
            "replicas": 1, "serviceName": "orders", "selector": {"matchLabels": {"app": "orders"}},
            "template": {"spec": {"containers": [{
                "name": "db",
                "env": [{"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "pg", "key": "p"}}}],
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
            }]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        },
    });
    let policy = json!({"metadata": {"name": "gold"}, "spec": {"archive": "main"}});
    let archive = json!({"metadata": {"name": "main"}, "spec": {"s3": {"bucket": "backups"}}});
    Observed {
        protection: serde_json::from_value(protection).unwrap(),
        stateful_set: serde_json::from_value(set).unwrap(),
        policy: serde_json::from_value(policy).unwrap(),
        archive: serde_json::from_value(archive).unwrap(),
        members: Vec::new(),
        pods: 0,
        volumes: Vec::new(),
        classes: Some(Vec::new()),
        agent: AgentSeen::default(),
        backups: Vec::new(),
        drills: Vec::new(),
    }
}

pub fn judge(observed: &Observed) -> Judgement {
    validate(observed, &image())
}

fn objects(observed: &Observed) -> Objects {
    judge(observed).agent.unwrap()
}

/// The same, with its agent running.
fn running() -> Observed {
    let mut observed = observed();
    let mut live = objects(&observed).deployment;
    live["status"] = json!({"availableReplicas": 1});
    observed.agent = AgentSeen {
        deployment: Some(live),
        bound: true,
        running: true,
        trouble: None,
    };
    observed
}

pub fn set_condition(
    observed: &mut Observed,
    type_: &str,
    status: Status,
    reason: &str,
    second: i64,
) {
    let list = &mut observed.protection.status.as_mut().unwrap().conditions;
    conditions::upsert(list, type_, status, reason, "", None, at(second));
}

/// The same, with WAL of a lineage reaching the archive.
pub fn archiving() -> Observed {
    let mut observed = running();
    observed.protection.status.as_mut().unwrap().lineage = Some(LINEAGE.parse().unwrap());
    set_condition(&mut observed, "Connected", Status::True, "Connected", 0);
    set_condition(&mut observed, "WalArchiving", Status::True, "Archiving", 0);
    observed
}

fn unmark(observed: &mut Observed) {
    observed
        .stateful_set
        .as_mut()
        .unwrap()
        .annotations_mut()
        .clear();
}

fn next(observed: &Observed, second: i64) -> Step {
    plan(&judge(observed), observed, at(second))
}

#[test]
fn an_agent_comes_after_the_finalizer() {
    let mut fresh = observed();
    fresh.protection.finalizers_mut().clear();
    assert_eq!(next(&fresh, 0), Step::AddFinalizer);
    let expected = Step::DeployAgent(Box::new(objects(&observed())));
    assert_eq!(next(&observed(), 0), expected);
    assert!(matches!(next(&running(), 0), Step::Rest(_)));
}

#[test]
fn an_agent_that_is_not_as_it_should_be_is_deployed_again() {
    let mut changed = running();
    let live = changed.agent.deployment.as_mut().unwrap();
    live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    assert!(matches!(next(&changed, 0), Step::DeployAgent(_)));
    let mut unbound = running();
    unbound.agent.bound = false;
    assert!(matches!(next(&unbound, 0), Step::DeployAgent(_)));
}

#[test]
fn the_first_backup_of_a_lineage_comes_as_soon_as_wal_is_archived() {
    let first = Step::TakeBackup {
        name: names::first_backup("orders", LINEAGE),
        reason: BackupReason::First,
        annotation: None,
    };
    assert_eq!(next(&archiving(), 0), first);
    let backup = |name: &str, lineage: Option<&str>| BackupSeen {
        name: name.into(),
        lineage: lineage.map(|lineage| lineage.parse().unwrap()),
        ..BackupSeen::default()
    };
    for (name, there, expected) in [
        ("of another lineage", backup("a", Some("0000000000")), true),
        ("of this lineage", backup("a", Some(LINEAGE)), false),
        (
            "asked for before",
            backup(&names::first_backup("orders", LINEAGE), None),
            false,
        ),
    ] {
        let mut observed = archiving();
        observed.backups.push(there);
        assert_eq!(next(&observed, 0) == first, expected, "{name}");
    }
    for (type_, reason) in [
        ("Connected", "PasswordRejected"),
        ("WalArchiving", "BucketNotFound"),
    ] {
        let mut observed = archiving();
        set_condition(&mut observed, type_, Status::False, reason, 1);
        assert!(matches!(next(&observed, 0), Step::Rest(_)), "{reason}");
    }
}

#[test]
fn a_gap_behind_every_backup_makes_one_backup() {
    let mut observed = archiving();
    let completed = BackupSeen {
        name: "nightly".into(),
        lineage: Some(LINEAGE.parse().unwrap()),
        completed: Some(at(0)),
        ..BackupSeen::default()
    };
    observed.backups.push(completed);
    assert!(matches!(next(&observed, 1), Step::Rest(_)), "no gap");
    let from = Lsn::new(0x0300_0000);
    let status = observed.protection.status.as_mut().unwrap();
    status.recoverable = Some(RecoveryWindow {
        backup_needed_from: Some(from),
        ..RecoveryWindow::default()
    });
    status.primary = Some(Primary {
        pod: "orders-0".into(),
        timeline: TimelineId::FIRST,
    });
    let step = next(&observed, 1);
    let named = |count| names::gap_backup("orders", LINEAGE, TimelineId::FIRST, from, count);
    let name = named(0);
    let expected = Step::TakeBackup {
        name: name.clone(),
        reason: BackupReason::Gap,
        annotation: None,
    };
    assert_eq!(step, expected);
    let mut stalled = observed.clone();
    set_condition(
        &mut stalled,
        "WalArchiving",
        Status::False,
        "BucketNotFound",
        1,
    );
    assert!(
        matches!(next(&stalled, 1), Step::Rest(_)),
        "it would not hold"
    );
    observed.backups.push(BackupSeen {
        name,
        ..BackupSeen::default()
    });
    assert!(matches!(next(&observed, 1), Step::Rest(_)), "under way");
    // One that failed closes nothing: the next comes, the sooner the fewer have failed.
    for (count, failed, again) in [
        (0, 100, 110),
        (1, 200, 220),
        (2, 300, 340),
        (15, 9000, 12600),
    ] {
        observed.backups.truncate(1);
        let mut last = BackupSeen {
            name: String::new(),
            failed: Some(at(0)),
            ..BackupSeen::default()
        };
        for number in 0..=count {
            last.name = named(number);
            last.failed = Some(at(if number == count { failed } else { 0 }));
            observed.backups.push(last.clone());
        }
        let step = next(&observed, again - 1);
        assert_eq!(
            step,
            Step::Rest(std::time::Duration::from_secs(1)),
            "{count}"
        );
        let Step::TakeBackup { name, .. } = next(&observed, again) else {
            panic!("{count}");
        };
        assert_eq!(name, named(count + 1));
    }
}

#[test]
fn no_first_backup_where_it_would_not_hold_the_database() {
    let mut observed = archiving();
    observed.protection.status.as_mut().unwrap().database = serde_json::from_value(json!({
        "systemIdentifier": "7391234567890123456", "majorVersion": 15, "segmentSize": 16_777_216,
        "dataDirectory": "/pgdata",
    }))
    .unwrap();
    let judgement = judge(&observed);
    assert_eq!(
        judgement.backups.as_ref().unwrap_err().reason,
        "DataDirectoryNotOnVolume"
    );
    // WAL is shipped all the same.
    assert!(judgement.agent.is_ok());
    assert!(matches!(plan(&judgement, &observed, at(0)), Step::Rest(_)));
}

#[test]
fn each_value_of_the_annotation_makes_one_backup() {
    let mut observed = running();
    let mark = |observed: &mut Observed, value: &str| {
        let set = observed.stateful_set.as_mut().unwrap();
        set.annotations_mut()
            .insert("highwater.dev/backup-now".into(), value.into());
    };
    mark(&mut observed, "one");
    let step = next(&observed, 0);
    let expected = Step::TakeBackup {
        name: names::annotation_backup("orders", "one"),
        reason: BackupReason::Annotation,
        annotation: Some("one".into()),
    };
    assert_eq!(step, expected);
    let status = report::status(&observed, &judge(&observed), &step, &Ok(()), at(0));
    assert_eq!(status.backup_now.as_deref(), Some("one"));
    observed.protection.status = Some(status);
    assert!(matches!(next(&observed, 0), Step::Rest(_)));
    mark(&mut observed, "two");
    assert!(matches!(next(&observed, 0), Step::TakeBackup { .. }));
}

/// The object after `report`, as the next pass reads it.
fn reported(mut observed: Observed, second: i64) -> Observed {
    let step = next(&observed, second);
    let mut status = report::status(&observed, &judge(&observed), &step, &Ok(()), at(second));
    // Server-side apply leaves the agent's as it is.
    let theirs = observed.protection.status.take().unwrap_or_default();
    let agents = ["Connected", "WalArchiving"];
    let agents = conditions::owned(&theirs.conditions, &agents);
    status.conditions.extend(agents);
    status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    status.lineage = theirs.lineage;
    observed.protection.status = Some(status);
    observed
}

#[test]
fn unprotecting_waits_for_the_slots_and_not_for_ever() {
    let mut observed = running();
    // `Active` was False already, for another reason: the two minutes count from the word Unprotected all the same.
    set_condition(
        &mut observed,
        "Active",
        Status::False,
        "AgentNotRunning",
        100,
    );
    unmark(&mut observed);
    let observed = reported(observed, 1000);
    let active = conditions::find(
        &observed.protection.status.as_ref().unwrap().conditions,
        "Active",
    )
    .unwrap();
    assert_eq!(
        (active.status.as_str(), active.reason.as_str()),
        ("False", "Unprotected")
    );
    assert_eq!(next(&observed, 1001), Step::AwaitSlots { until: at(1120) });
    assert_eq!(
        next(&reported(observed.clone(), 1050), 1119),
        Step::AwaitSlots { until: at(1120) }
    );
    let Step::RemoveAgent { left: Some(left) } = next(&observed, 1120) else {
        panic!("still waiting");
    };
    assert!(left.contains(&names::slot("u-1")), "{left}");
    let mut dropped = observed.clone();
    set_condition(&mut dropped, "SlotsDropped", Status::True, "Dropped", 1002);
    assert_eq!(next(&dropped, 1003), Step::RemoveAgent { left: None });
    // Said by the agent of an earlier time: this one has made its slot again.
    let live = dropped.agent.deployment.as_mut().unwrap();
    live["metadata"]["creationTimestamp"] = json!("1970-01-01T00:16:43Z");
    assert!(matches!(next(&dropped, 1004), Step::AwaitSlots { .. }));
    let mut gone = observed;
    gone.agent = AgentSeen::default();
    assert!(matches!(next(&gone, 1003), Step::Rest(_)));
}

/// A node that is lost says nothing, and no pod has anything to say either: the slot holds WAL without a ceiling.
#[test]
fn an_agent_that_does_not_run_is_told_within_two_minutes() {
    let mut observed = running();
    observed.agent.running = false;
    let active = |observed: &Observed| {
        let status = observed.protection.status.as_ref().unwrap();
        let active = conditions::find(&status.conditions, "Active").unwrap();
        (active.status.clone(), active.reason.clone())
    };
    let starting = reported(observed, 1000);
    let said = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(active(&starting), said("Unknown", "AgentStarting"));
    let starting = reported(starting, 1059);
    assert_eq!(active(&starting), said("Unknown", "AgentStarting"));
    let overdue = reported(starting, 1060);
    assert_eq!(active(&overdue), said("False", "AgentNotRunning"));
    let mut overdue = reported(overdue, 1200);
    assert_eq!(active(&overdue), said("False", "AgentNotRunning"));
    overdue.agent.running = true;
    assert_eq!(
        active(&reported(overdue, 1300)),
        said("True", "AgentRunning")
    );
}

/// A backup of a database that is there no more says nothing of the one that is.
#[test]
fn the_last_backup_is_one_of_this_lineage() {
    let mut observed = running();
    let backup = |name: &str, lineage: &str, second| BackupSeen {
        name: name.into(),
        lineage: Some(lineage.parse().unwrap()),
        completed: Some(at(second)),
        ..BackupSeen::default()
    };
    observed.backups = vec![backup("ours", LINEAGE, 1), backup("old", "0000000000", 2)];
    let last = |observed: &Observed| {
        let status = report::status(
            observed,
            &judge(observed),
            &next(observed, 3),
            &Ok(()),
            at(3),
        );
        status.last_backup.unwrap().name
    };
    assert_eq!(last(&observed), "old", "no lineage is known yet");
    let status = observed.protection.status.as_mut().unwrap();
    status.lineage = Some(LINEAGE.parse().unwrap());
    assert_eq!(last(&observed), "ours");
}

/// An alert waits for the figure 0: no figure says nothing.
#[test]
fn an_agent_that_cannot_be_deployed_counts_as_one_that_does_not_run() {
    let counted = |observed: &Observed| report::running(observed, &next(observed, 1001), at(1001));
    assert_eq!(counted(&observed()), Some(false));
    let mut refused = observed();
    refused.policy = None;
    assert_eq!(counted(&refused), Some(false));
    assert_eq!(counted(&running()), Some(true));
    let mut deleted = running();
    deleted.protection.metadata.deletion_timestamp = Some(Time(at(1000)));
    assert_eq!(counted(&deleted), Some(true));
    deleted.agent = AgentSeen::default();
    assert_eq!(counted(&deleted), None);
}

#[test]
fn a_deleted_protection_is_released_when_its_agent_is_gone() {
    let mut observed = running();
    observed.protection.metadata.deletion_timestamp = Some(Time(at(1000)));
    assert!(matches!(next(&observed, 1001), Step::AwaitSlots { .. }));
    observed.agent = AgentSeen::default();
    assert_eq!(next(&observed, 1001), Step::Release);
    observed.protection.finalizers_mut().clear();
    assert!(matches!(next(&observed, 1001), Step::Rest(_)));
}

#[test]
fn a_statefulset_that_is_gone_takes_nothing_with_it() {
    let mut observed = running();
    observed.stateful_set = None;
    assert!(matches!(next(&observed, 0), Step::Rest(_)));
    let reasons = |judgement: Judgement| judgement.agent.unwrap_err().reason;
    assert_eq!(reasons(judge(&observed)), "StatefulSetNotFound");
}

#[test]
fn what_is_missing_is_said() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 5] = [
        ("NameTooLong", |observed| {
            observed.protection.metadata.name = Some("o".repeat(names::LONGEST_OWNER + 1));
        }),
        ("PolicyNotFound", |observed| observed.policy = None),
        ("ArchiveNotFound", |observed| observed.archive = None),
        ("CredentialsNotFound", |observed| {
            let set = observed.stateful_set.as_mut().unwrap();
            let pod = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
            pod.containers[0].env = None;
        }),
        ("AgentNameTaken", |observed| {
            observed.agent.deployment =
                Some(json!({"metadata": {"ownerReferences": [{"uid": "other"}]}}));
        }),
    ];
    for (reason, change) in cases {
        let mut observed = observed();
        change(&mut observed);
        assert_eq!(judge(&observed).agent.unwrap_err().reason, reason);
        let step = next(&observed, 0);
        assert!(matches!(step, Step::Rest(_)), "{reason}: {step:?}");
        let status = report::status(&observed, &judge(&observed), &step, &Ok(()), at(0));
        let active = conditions::find(&status.conditions, "Active").unwrap();
        assert_eq!(
            (active.status.as_str(), active.reason.as_str()),
            ("False", reason)
        );
    }
}

#[test]
fn the_second_report_is_the_first() {
    for observed in [observed(), running(), archiving()] {
        let once = reported(observed, 10);
        let twice = reported(once.clone(), 20);
        let statuses = |observed: &Observed| -> Json { json!(observed.protection.status) };
        assert_eq!(statuses(&once), statuses(&twice));
    }
}
