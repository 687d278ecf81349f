use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{StandbyAttempt, conditions};
use crate::controller::backup::{
    door::door,
    model::base::{base, base_of_standby, proved},
    observe::Observed,
    plan::{Step, plan},
    setback::Setback,
    validate::validate,
};

/// A protection of as many members, the first of which takes writes, and these standbys.
fn protection(members: usize, standbys: &[usize]) -> PgProtection {
    let pod = |number: &usize| format!("orders-{number}");
    let member = |number: usize| json!({"pod": pod(&number), "uid": format!("pod-{number}"), "address": "10.1.2.3"});
    let mut protection = base().protection.unwrap();
    let status = protection.status.as_mut().unwrap();
    let all: Vec<_> = (0..members).map(member).collect();
    status.members = serde_json::from_value(json!(all)).unwrap();
    status.standbys = standbys.iter().map(pod).collect();
    protection
}

fn policy(source: BackupSource) -> PgBackupPolicy {
    let mut policy = base().policy.unwrap();
    policy.spec.backup_from = source;
    policy
}

/// A backup whose last attempt had this number and was, or was not, of a standby.
fn backup(last: Option<(u32, bool)>) -> PgBackup {
    let mut backup = base().backup;
    let Some((number, of_standby)) = last else {
        return backup;
    };
    let mut attempt = json!({"number": number, "startedAt": "2026-01-01T00:00:00.000000Z", "pod": "p", "podUid": "u", "address": "a"});
    if of_standby {
        attempt["standby"] = json!({"controlClaim": "data-orders-1"});
    }
    backup.status = serde_json::from_value(json!({"attempt": attempt})).unwrap();
    backup
}

fn chosen(
    source: BackupSource,
    protection: &PgProtection,
    last: Option<(u32, bool)>,
) -> Result<(String, Role), &'static str> {
    let policy = policy(source);
    let instance = choose(&backup(last), protection, Some(&policy));
    instance
        .map(|instance| (instance.member.pod.clone(), instance.role))
        .map_err(|rejection| rejection.reason())
}

#[test]
fn the_policy_says_of_which_member() {
    use BackupSource::{PreferStandby, Primary, Standby};
    let (alone, two) = (protection(1, &[]), protection(2, &[1]));
    let primary = |role| Ok(("orders-0".to_owned(), role));
    let standby = || Ok(("orders-1".to_owned(), Role::Standby));
    let none = || Role::PrimaryInstead(NoStandby::None("orders".into()));
    for (what, source, protection, last, expected) in [
        ("by default", Primary, &two, None, primary(Role::Primary)),
        ("preferred", PreferStandby, &two, None, standby()),
        ("alone", PreferStandby, &alone, None, primary(none())),
        ("asked for", Standby, &two, None, standby()),
        ("asked for, alone", Standby, &alone, None, Err("NoStandby")),
        (
            "preferred, and void",
            PreferStandby,
            &two,
            Some((1, true)),
            primary(Role::PrimaryInstead(NoStandby::GivenUp(1))),
        ),
        (
            "preferred, and the primary's was void too",
            PreferStandby,
            &two,
            Some((2, false)),
            standby(),
        ),
        (
            "asked for, and void",
            Standby,
            &two,
            Some((1, true)),
            standby(),
        ),
    ] {
        assert_eq!(chosen(source, protection, last), expected, "{what}");
    }
    let mut nobody = protection(2, &[1]);
    nobody.status.as_mut().unwrap().primary = None;
    assert_eq!(chosen(Primary, &nobody, None), Err("NoPrimary"));
}

#[test]
fn of_several_standbys_each_has_its_turn() {
    let four = protection(4, &[1, 2, 3]);
    for (source, every) in [
        (BackupSource::Standby, 1_u32),
        (BackupSource::PreferStandby, 2),
    ] {
        let mut pods: Vec<String> = Vec::new();
        let mut last = None;
        for number in 1..=12 {
            let (pod, role) = chosen(source, &four, last).unwrap();
            assert_eq!(
                role == Role::Standby,
                (number - 1_u32).is_multiple_of(every),
                "{source:?} {number}"
            );
            if role == Role::Standby {
                pods.push(pod);
            }
            last = Some((number, role == Role::Standby));
        }
        pods.sort();
        pods.dedup();
        assert_eq!(pods, ["orders-1", "orders-2", "orders-3"], "{source:?}");
    }
}

proptest! {
    /// What is called a standby was reported as one and is a member; the primary is never taken for one.
    #[test]
    fn a_standby_is_one_that_the_agent_saw(
        members in 1usize..5,
        standbys in proptest::collection::btree_set(1usize..6, 0..5),
        prefers: bool,
        last in proptest::option::of((1u32..9, any::<bool>())),
    ) {
        let standbys: Vec<usize> = standbys.into_iter().collect();
        let source = match prefers {
            true => BackupSource::PreferStandby,
            false => BackupSource::Standby,
        };
        let protection = protection(members, &standbys);
        let usable = standbys.iter().any(|number| *number < members);
        match chosen(source, &protection, last) {
            Ok((pod, Role::Standby)) => {
                let seen = standbys.iter().any(|number| *number < members && pod == format!("orders-{number}"));
                prop_assert!(seen, "{pod}");
            }
            Ok((pod, role)) => {
                prop_assert_ne!(role, Role::Primary, "the policy does not say so");
                prop_assert!(prefers && pod == "orders-0");
            }
            Err(reason) => prop_assert!(!prefers && !usable && reason == "NoStandby"),
        }
    }
}

/// What the door writes down for an attempt.
fn attempt(observed: &Observed) -> Attempt {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    door(observed, 1, now).unwrap().set.attempt().clone()
}

#[test]
fn an_attempt_says_what_it_is_of_and_why() {
    let mut observed = base_of_standby();
    let of_standby = attempt(&observed);
    assert_eq!(
        (of_standby.pod.as_str(), of_standby.address.as_str()),
        ("orders-0", "10.1.2.3")
    );
    let claim = of_standby.standby.map(|standby| standby.control_claim);
    assert_eq!(claim.as_deref(), Some("data-orders-0"));
    assert_eq!(of_standby.of_primary, None);

    let status = observed.protection.as_mut().unwrap().status.as_mut();
    status.unwrap().standbys.clear();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let refused = door(&observed, 1, now).unwrap_err();
    assert_eq!(refused.reason(), "NoStandby");
    assert!(refused.to_string().contains("PreferStandby"), "{refused}");

    let mut alone = base();
    alone.policy.as_mut().unwrap().spec.backup_from = BackupSource::PreferStandby;
    let of_primary = attempt(&alone);
    assert_eq!(of_primary.standby, None);
    assert_eq!(of_primary.of_primary.unwrap().reason, "NoStandby");
    assert_eq!(attempt(&base()).of_primary, None);
}

/// The claim that comes last is the one that the file lies on, whatever lies inside of PGDATA.
#[test]
fn pg_control_is_looked_for_where_it_is_mounted() {
    for (mount, expected) in [
        ("/data/pg/pg_wal", "data-orders-0"),
        ("/data/pg/global", "wal-orders-0"),
        ("/data/pg", "wal-orders-0"),
    ] {
        let mut observed = base_of_standby();
        let pod = observed.source.as_mut().unwrap().pod.as_mut().unwrap();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.volume_mounts.as_mut().unwrap()[1].mount_path = mount.to_owned();
        let standby = attempt(&observed).standby.unwrap();
        assert_eq!(standby.control_claim, expected, "{mount}");
    }
}

/// Another standby with its address answers as well.
#[test]
fn a_standby_that_is_replaced_before_its_snapshots_voids_the_attempt() {
    let observed = base_of_standby();
    let number = 1;
    let now = "2026-01-01T00:00:10Z".parse().unwrap();
    let proposal = door(&observed, number, now).unwrap();
    let attempt = proposal.set.attempt();
    let pod = observed.source.as_ref().unwrap().pod.clone().unwrap();
    let with = |edit: fn(&mut Pod)| {
        let mut pod = pod.clone();
        edit(&mut pod);
        is_accepted_pod(attempt, Some(&pod))
    };
    assert!(with(|_| {}));
    assert!(!is_accepted_pod(attempt, None));
    assert!(!with(|pod| pod.metadata.uid = Some("pod-9".into())));
    assert!(!with(|pod| pod.status.as_mut().unwrap().pod_ip = None));
    let going = |pod: &mut Pod| {
        let now = jiff::Timestamp::UNIX_EPOCH;
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    };
    assert!(!with(going));

    let mut running = proved();
    let status = running.backup.status.as_mut().unwrap();
    let conditions = [conditions::CUT, conditions::STOPPED];
    status
        .conditions
        .retain(|it| !conditions.contains(&it.type_.as_str()));
    for volume in &mut status.volumes {
        volume.volume_snapshot_uid = None;
    }
    (running.snapshots, running.contents) = (Vec::new(), Vec::new());
    let of_standby = |backup: &mut PgBackup| {
        let attempt = backup.status.as_mut().unwrap().attempt.as_mut().unwrap();
        let control_claim = "data-orders-0".to_owned();
        attempt.standby = Some(StandbyAttempt { control_claim });
    };
    assert_eq!(unmade_of_standby(&running.backup), None);
    of_standby(&mut running.backup);
    assert!(unmade_of_standby(&running.backup).is_some());
    let step = |observed: &Observed| plan(&validate(observed, now), now).step;
    let due = step(&running);
    assert!(matches!(due, Step::CreateSnapshots(_)), "{due:?}");
    running.replaced = true;
    let step = step(&running);
    let replaced = Setback::StandbyReplaced("orders-0".to_owned());
    assert_eq!(step, Step::Abandon(replaced));
}
