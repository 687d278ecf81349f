//! A restore into a namespace that a PgProtection in another one allows.

use serde_json::json;

use super::*;
use crate::{
    api::PgProtection,
    controller::restore::granted::{self, Granting},
};

fn protection_of(allowed: &[&str]) -> PgProtection {
    serde_json::from_value(json!({
        "metadata": {"name": "orders", "namespace": "prod"},
        "spec": {"statefulSet": "orders", "policy": "gold", "allowRestoreTo": allowed},
    }))
    .unwrap()
}

fn there() -> PgBackup {
    let mut backup: PgBackup = serde_json::from_value(backup()).unwrap();
    backup.metadata.namespace = Some("prod".into());
    backup.metadata.uid = Some("backup-uid".into());
    for volume in &mut backup.status.as_mut().unwrap().volumes {
        volume.handle = Some(format!("handle-{}", volume.volume));
    }
    backup
}

fn content(backup: &PgBackup, at: usize) -> Json {
    let volume = &backup.status.as_ref().unwrap().volumes[at];
    json!({
        "metadata": {"name": "c", "labels": {annotations::BACKUP_UID_LABEL: "backup-uid"}},
        "spec": {
            "deletionPolicy": "Retain", "driver": volume.driver, "source": {},
            "volumeSnapshotRef": {"name": "s", "namespace": "prod"},
        },
        "status": {"snapshotHandle": volume.handle},
    })
}

fn contents(backup: &PgBackup) -> Vec<Json> {
    let volumes = &backup.status.as_ref().unwrap().volumes;
    (0..volumes.len()).map(|at| content(backup, at)).collect()
}

fn planned_there() -> Json {
    json!({"plan": plan_json(), "conditions": [condition("Planned", "True", "Planned")]})
}

/// As [`super::observed`], from namespace `prod` into `shop`; nobody allows an import.
fn granted_with(allowed: &[&str], backup: PgBackup, contents: Vec<Json>) -> Observed {
    let mut observed = observed(json!({"volumes": {"namePrefix": "copy"}}), planned_there());
    let grant = json!({"namespace": "prod", "protection": "orders"});
    let archive = json!({"archive": "main", "name": "n", "grantedBy": grant});
    observed.restore.spec.source = serde_json::from_value(json!({"archive": archive})).unwrap();
    (observed.protection, observed.live) = (None, None);
    observed.snapshots = Vec::new();
    let parse = |content| Some(serde_json::from_value(content).unwrap());
    observed.granting = Some(Granting {
        protection: Some(protection_of(allowed)),
        backup: Some(backup),
        contents: contents.into_iter().map(parse).collect(),
        topology: Vec::new(),
    });
    (observed.backup, _) = granted::source(observed.granting.as_ref(), None);
    observed
}

fn granted() -> Observed {
    granted_with(&["test", "shop"], there(), contents(&there()))
}

#[test]
fn what_was_granted_is_imported_without_a_word_of_a_cluster_admin() {
    let mut observed = granted();
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("{:?}", plan(&observed, &image()));
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let objects = made_by(&observed);
    let handles: Vec<_> = objects
        .iter()
        .filter(|(kind, _)| *kind == Kind::VolumeSnapshotContent)
        .map(|(_, content)| {
            assert_eq!(content["spec"]["deletionPolicy"], "Retain");
            assert_eq!(content["spec"]["volumeSnapshotRef"]["namespace"], "shop");
            content["spec"]["source"]["snapshotHandle"].clone()
        })
        .collect();
    assert_eq!(handles, [json!("handle-data"), json!("handle-wal")]);
    // The word is asked for again until all is made.
    observed.granting.as_mut().unwrap().protection = Some(protection_of(&[]));
    assert_eq!(refused(&observed), "NotGranted");
}

#[test]
fn nothing_is_restored_that_was_not_granted() {
    for allowed in [&[][..], &["sho"], &["test", "shop2"]] {
        let mut observed = granted_with(allowed, there(), contents(&there()));
        assert_eq!(refused(&observed), "NotGranted", "{allowed:?}");
        let Step::Fail(allowed_not) = plan(&observed, &image()) else {
            panic!()
        };
        // A cluster admin's word is about another kind of source.
        observed.import_from = Some("main".into());
        assert_eq!(refused(&observed), "NotGranted");
        // What is not there is not told from what is not granted.
        observed.granting = Some(Granting::default());
        let Step::Fail(not_there) = plan(&observed, &image()) else {
            panic!()
        };
        assert_eq!(allowed_not, not_there);
        observed.granting = None;
        assert_eq!(refused(&observed), "NotGranted");
    }
    // Another one, that a request for a name that is none might find.
    for (name, namespace) in [("salaries", "prod"), ("orders", "other")] {
        let mut observed = granted();
        let granting = observed.granting.as_mut().unwrap();
        let found = &mut granting.protection.as_mut().unwrap().metadata;
        (found.name, found.namespace) = (Some(name.into()), Some(namespace.into()));
        assert_eq!(refused(&observed), "NotGranted");
    }
}

/// It shows volumes, sizes, and the names of Secrets.
#[test]
fn a_plan_alone_shows_nothing_that_was_not_granted() {
    let mut observed = granted_with(&["test"], there(), contents(&there()));
    observed.restore.spec.plan_only = Some(true);
    assert_eq!(refused(&observed), "NotGranted");
    observed.granting = Some(Granting::default());
    assert_eq!(refused(&observed), "NotGranted");
    let mut observed = granted();
    observed.restore.spec.plan_only = Some(true);
    assert!(matches!(plan(&observed, &image()), Step::Show(_)));
}

#[test]
fn a_plans_base_does_not_choose_the_pods() {
    let base = json!({
        "name": "b", "uid": "backup-uid", "namespace": "prod", "statefulSetName": "vault",
        "volumes": [], "statefulSet": {"serviceName": "vault"},
    });
    let base = serde_json::from_value(base).unwrap();
    let (backup, set) = granted::source(granted().granting.as_ref(), Some(&base));
    assert_eq!(set.as_deref(), Some("orders"));
    let status = backup.unwrap().status.unwrap();
    assert_eq!(status.stateful_set.unwrap()["serviceName"], "orders");
    assert_eq!(status.volumes.len(), 2);
    // Nothing of the base stands in for what is not there.
    let nothing = granted::source(Some(&Granting::default()), Some(&base));
    assert!(nothing.0.is_none() && nothing.1.is_none());
    // Where the source is the archive alone it does.
    let (_, set) = granted::source(None, Some(&base));
    assert_eq!(set.as_deref(), Some("vault"));
}

#[test]
fn postgresql_runs_in_the_container_that_the_granting_protection_names() {
    let mut observed = granted();
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("{:?}", plan(&observed, &image()));
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let image_of = |observed: &Observed| {
        let objects = made_by(observed);
        let is_pod = |(kind, _): &&(Kind, Json)| *kind == Kind::Pod;
        let (_, pod) = objects.iter().find(is_pod).unwrap();
        pod["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(image_of(&observed), "pg:15");
    let granting = observed.granting.as_mut().unwrap();
    let protection = granting.protection.as_mut().unwrap();
    protection.spec.connection = serde_json::from_value(json!({"container": "exporter"})).unwrap();
    assert_eq!(image_of(&observed), "e");
}

/// Neither the source's PgBackup and PgProtection nor any of these names beside the restore.
#[test]
fn a_drill_tells_nothing_to_another_namespace() {
    let mut observed = granted();
    let spec = &mut observed.restore.spec;
    spec.verify = Some(serde_json::from_value(json!({"checks": ["Amcheck"]})).unwrap());
    observed.into = drill::destination(spec, "r");
    let Step::WriteDown(volumes) = plan(&observed, &image()) else {
        panic!("{:?}", plan(&observed, &image()));
    };
    observed.restore.status.as_mut().unwrap().volumes = volumes;
    let step = plan(&observed, &image());
    observed = done(observed, &step);
    condition_added(&mut observed, condition("Recovered", "True", "Recovered"));
    let Step::Tell(verdict) = plan(&observed, &image()) else {
        panic!("{:?}", plan(&observed, &image()));
    };
    assert_eq!((verdict.backup, verdict.protection), (None, None));
    // What it took is told to `observed.protection` alone.
    assert!(observed.protection.is_none());
}

#[test]
fn neither_a_bucket_nor_a_plan_chooses_what_is_imported() {
    let changed = |edit: &dyn Fn(&mut PgBackup)| {
        let mut backup = there();
        edit(&mut backup);
        refused(&granted_with(&["shop"], backup, contents(&there())))
    };
    let of_another = |backup: &mut PgBackup| backup.spec.protection = "salaries".into();
    assert_eq!(changed(&of_another), "BackupNotFound");
    let another = |backup: &mut PgBackup| backup.metadata.name = Some("another".into());
    assert_eq!(changed(&another), "BackupNotFound");
    let elsewhere = |backup: &mut PgBackup| backup.metadata.namespace = Some("other".into());
    assert_eq!(changed(&elsewhere), "BackupNotFound");
    let handle = |backup: &mut PgBackup| {
        let status = backup.status.as_mut().unwrap();
        status.volumes[1].handle = Some("somebody-elses".into());
    };
    assert_eq!(changed(&handle), "SnapshotGone");
    let completed = |backup: &mut PgBackup| backup.status.as_mut().unwrap().conditions.clear();
    assert_eq!(changed(&completed), "BackupNotCompleted");
    // A content that is another backup's, another namespace's, or gone.
    for (pointer, value) in [
        (
            "/metadata/labels",
            json!({annotations::BACKUP_UID_LABEL: "other"}),
        ),
        ("/spec/volumeSnapshotRef/namespace", json!("shop")),
        ("/spec/driver", json!("other")),
        ("/status/snapshotHandle", json!("other")),
    ] {
        let mut contents = contents(&there());
        *contents[0].pointer_mut(pointer).unwrap() = value;
        let observed = granted_with(&["shop"], there(), contents);
        assert_eq!(refused(&observed), "SnapshotGone", "{pointer}");
    }
    let observed = granted_with(&["shop"], there(), vec![content(&there(), 0)]);
    assert_eq!(refused(&observed), "SnapshotGone");
    let mut observed = granted();
    observed.granting.as_mut().unwrap().backup = None;
    assert_eq!(refused(&observed), "BackupNotFound");
}
