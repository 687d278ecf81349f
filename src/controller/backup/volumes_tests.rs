use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};

use super::*;
use crate::controller::backup::{door::door, model::base::base, observe::Observed};

#[test]
fn quantities_are_read_in_bytes() {
    for (text, expected) in [
        ("1Gi", Some(1 << 30)),
        ("10G", Some(10_000_000_000)),
        ("1.5Gi", Some(3 << 29)),
        ("1073741824", Some(1 << 30)),
        ("512000m", Some(512)),
        ("7E", Some(7_000_000_000_000_000_000)),
        ("5Ei", Some(5 << 60)),
        ("many", None),
        ("1Q", None),
    ] {
        assert_eq!(bytes(&Quantity(text.into())), expected, "{text}");
    }
}

type Change = fn(&mut Observed);

/// The claims of an attempt, or why there is none.
fn claims_of(change: Change) -> Result<Vec<String>, &'static str> {
    let mut observed = base();
    change(&mut observed);
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let proposal = door(&observed, 1, now).map_err(|rejection| rejection.reason())?;
    let members = proposal.set.members().iter();
    Ok(members.map(|member| member.claim.clone()).collect())
}

#[test]
fn without_its_wal_no_backup_begins() {
    let refused = claims_of(|observed| {
        let protection = observed.protection.as_mut().unwrap();
        let status = protection.status.as_mut().unwrap();
        status.conditions.retain(|it| it.type_ != "WalArchiving");
    });
    assert_eq!(refused, Err("WalNotArchived"));
}

fn pod(observed: &mut Observed) -> &mut PodSpec {
    let source = observed.source.as_mut().unwrap();
    source.pod.as_mut().unwrap().spec.as_mut().unwrap()
}

fn add_volume(observed: &mut Observed, volume: Value) {
    let volume = serde_json::from_value(volume).unwrap();
    pod(observed).volumes.as_mut().unwrap().push(volume);
}

/// Another claim like the first.
fn add_claim(observed: &mut Observed, name: &str) {
    let source = observed.source.as_mut().unwrap();
    let mut claim = source.claims["data-orders-0"].clone();
    claim.spec.as_mut().unwrap().volume_name = Some(format!("pv-{name}"));
    source.claims.insert(name.to_owned(), claim);
    let volume = source.volumes["pv-data-orders-0"].clone();
    source.volumes.insert(format!("pv-{name}"), volume);
}

fn mount(observed: &mut Observed, volume: &str, path: &str) {
    let mount = VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let mounts = &mut pod(observed).containers[0].volume_mounts;
    mounts.as_mut().unwrap().push(mount);
}

fn exclude(observed: &mut Observed, volume: &str) {
    let protection = observed.protection.as_mut().unwrap();
    protection.spec.exclude_volumes.push(volume.to_owned());
}

fn facts(observed: &mut Observed) -> &mut DatabaseFacts {
    let status = observed.protection.as_mut().unwrap().status.as_mut();
    status.unwrap().database.as_mut().unwrap()
}

fn tablespace(observed: &mut Observed, directory: &str) {
    facts(observed).tablespaces.push(directory.to_owned());
}

#[test]
fn every_claim_of_the_pod_is_a_member() {
    const ALL: [&str; 2] = ["data-orders-0", "wal-orders-0"];
    let cases: [(&str, Change, &[&str]); 6] = [
        ("as it is", |_| {}, &ALL),
        (
            "one that no container mounts",
            |o| {
                add_volume(
                    o,
                    json!({"name": "more", "persistentVolumeClaim": {"claimName": "archive"}}),
                );
                add_claim(o, "archive");
            },
            &["archive", "data-orders-0", "wal-orders-0"],
        ),
        (
            "an ephemeral one",
            |o| {
                add_volume(o, json!({"name": "cache", "ephemeral": {}}));
                add_claim(o, "orders-0-cache");
            },
            &["data-orders-0", "orders-0-cache", "wal-orders-0"],
        ),
        (
            "one claim under two names",
            |o| {
                add_volume(
                    o,
                    json!({"name": "again", "persistentVolumeClaim": {"claimName": "data-orders-0"}}),
                );
                exclude(o, "again");
            },
            &ALL,
        ),
        ("an excluded one", |o| exclude(o, "wal"), &ALL[..1]),
        (
            "no claim",
            |o| add_volume(o, json!({"name": "run", "emptyDir": {}})),
            &ALL,
        ),
    ];
    for (what, change, expected) in cases {
        let expected = expected.iter().map(|claim| (*claim).to_owned()).collect();
        assert_eq!(claims_of(change), Ok(expected), "{what}");
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let cases: [(&str, &str, Change); 13] = [
        (
            "an ephemeral claim that is not bound",
            "ClaimNotBound",
            |o| {
                add_volume(o, json!({"name": "cache", "ephemeral": {}}));
            },
        ),
        ("a claim that goes", "ClaimNotBound", |o| {
            let source = o.source.as_mut().unwrap();
            let claim = source.claims.get_mut("data-orders-0").unwrap();
            claim.metadata.deletion_timestamp =
                Some("2026-01-01T00:00:30Z".parse().map(Time).unwrap());
        }),
        ("a volume without a driver", "VolumeNotCsi", |o| {
            let source = o.source.as_mut().unwrap();
            let volume = source.volumes.get_mut("pv-wal-orders-0").unwrap();
            volume.spec.as_mut().unwrap().csi = None;
        }),
        ("all excluded", "NoVolumes", |o| {
            exclude(o, "data");
            exclude(o, "wal");
        }),
        (
            "the data directory's volume excluded",
            "DataDirectoryNotOnVolume",
            |o| exclude(o, "data"),
        ),
        (
            "the data directory in a memory volume",
            "DataDirectoryNotOnVolume",
            |o| mount(o, "tmp", "/data/pg"),
        ),
        (
            "the data directory in the image",
            "DataDirectoryNotOnVolume",
            |o| {
                facts(o).data_directory = "/var/lib/pg".into();
            },
        ),
        ("a tablespace in the image", "TablespaceNotOnVolume", |o| {
            tablespace(o, "/ts")
        }),
        (
            "a tablespace beside a mount",
            "TablespaceNotOnVolume",
            |o| tablespace(o, "/wal2/ts"),
        ),
        (
            "a tablespace in a memory volume",
            "TablespaceNotOnVolume",
            |o| {
                mount(o, "tmp", "/data/ts");
                tablespace(o, "/data/ts/a");
            },
        ),
        (
            "a tablespace on an excluded volume",
            "TablespaceNotOnVolume",
            |o| {
                exclude(o, "wal");
                tablespace(o, "/wal/ts");
            },
        ),
        (
            "subPathExpr below the data directory",
            "SubPathExpression",
            |o| {
                let mounts = pod(o).containers[0].volume_mounts.as_mut().unwrap();
                mounts[0].sub_path_expr = Some("$(POD_NAME)".into());
            },
        ),
        ("subPathExpr below a tablespace", "SubPathExpression", |o| {
            let mounts = pod(o).containers[0].volume_mounts.as_mut().unwrap();
            mounts[1].sub_path_expr = Some("$(POD_NAME)".into());
            tablespace(o, "/wal/ts");
        }),
    ];
    for (what, reason, change) in cases {
        assert_eq!(claims_of(change), Err(reason), "{what}");
    }
    let inside: [(&str, Change); 3] = [
        ("a tablespace on another claim", |o| {
            tablespace(o, "/wal/ts")
        }),
        ("a tablespace in the data directory", |o| {
            tablespace(o, "/data/pg/ts")
        }),
        ("pg_wal excluded", |o| exclude(o, "wal")),
    ];
    for (what, change) in inside {
        assert!(claims_of(change).is_ok(), "{what}");
    }
}
