use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::{
    api::{PgProtectionStatus, Room},
    controller::backup::{at_once::Full, model::base::base},
};

fn status(observed: &mut Observed) -> &mut PgProtectionStatus {
    let protection = observed.protection.as_mut().unwrap();
    protection.status.as_mut().unwrap()
}

/// A condition that is `False`.
fn fails(observed: &mut Observed, type_: &str, reason: &str) {
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    let list = &mut status(observed).conditions;
    let failed = conditions::Status::False;
    conditions::upsert(list, type_, failed, reason, "mend it", None, now);
}

/// A primary that has enough of everything, and our slot.
fn roomy() -> Preflight {
    Preflight {
        observed_at: serde_json::from_value(json!("2026-01-01T00:00:00.000000Z")).unwrap(),
        pod: "orders-0".to_owned(),
        wal_level: "replica".to_owned(),
        holds_slot: true,
        replication_slots: Room::new(10, 4),
        wal_senders: Room::new(10, 1),
        connections: Room::new(97, 12),
        role_connections: Some(Room::new(5, 2)),
        database_connections: Some(Room::new(40, 12)),
    }
}

fn sees(observed: &mut Observed, change: impl FnOnce(&mut Preflight)) {
    let mut seen = roomy();
    change(&mut seen);
    status(observed).preflight = Some(seen);
}

fn streams_only(observed: &mut Observed) {
    let policy = observed.policy.as_mut().unwrap();
    policy.spec.wal.transport = Transport::Streaming;
}

/// So many bytes the archive has not yet.
fn keeps(observed: &mut Observed, bytes: i64) {
    let wal = json!({"transport": "sql", "reason": "", "lagBytes": bytes});
    status(observed).wal = Some(serde_json::from_value(wal).unwrap());
}

type Change = fn(&mut Observed);

/// The rule, the reason, what must be in the sentence, and what breaks it.
const BROKEN: [(&str, &str, &str, Change); 24] = [
    (
        "protection",
        "ProtectionNotFound",
        "PgProtection orders",
        |o| o.protection = None,
    ),
    (
        "protection",
        "ProtectionDeleted",
        "create a new PgBackup",
        |o| {
            let metadata = &mut o.protection.as_mut().unwrap().metadata;
            metadata.deletion_timestamp = "2026-01-01T00:00:00Z".parse().ok().map(Time);
        },
    ),
    ("policy", "PolicyNotFound", "PgBackupPolicy gold", |o| {
        o.policy = None
    }),
    (
        "at-once",
        "WaitsForOthers",
        "4 at once on node east-1, as --backups-at-once-per-node",
        |o| o.full = Some(Full::Node("east-1".to_owned(), 4)),
    ),
    ("turn", "Queued", "PgBackup older", |o| {
        o.ahead = Some("older".to_owned())
    }),
    ("active", "ProtectionNotActive", "mend it", |o| {
        fails(o, "Active", "NoSnapshotClass")
    }),
    ("privileges", "InsufficientPrivileges", "mend it", |o| {
        fails(o, "Connected", "InsufficientPrivileges");
    }),
    ("wal-level", "WalLevelTooLow", "wal_level = replica", |o| {
        sees(o, |seen| seen.wal_level = "minimal".to_owned());
    }),
    (
        "replication-slots",
        "TooManyReplicationSlots",
        "max_replication_slots is 10",
        |o| {
            sees(o, |seen| {
                (seen.holds_slot, seen.replication_slots) = (false, Room::new(10, 10))
            });
        },
    ),
    (
        "connections",
        "TooManyConnections",
        "the role may have 97",
        |o| {
            sees(o, |seen| seen.connections = Room::new(97, 97));
        },
    ),
    ("connections", "TooManyConnections", "ALTER ROLE", |o| {
        sees(o, |seen| seen.role_connections = Some(Room::new(2, 2)))
    }),
    ("connections", "TooManyConnections", "ALTER DATABASE", |o| {
        sees(o, |seen| seen.database_connections = Some(Room::new(4, 4)))
    }),
    ("connected", "NotConnected", "mend it", |o| {
        fails(o, "Connected", "PasswordRejected")
    }),
    (
        "wal-senders",
        "TooManyWalSenders",
        "max_wal_senders is 0",
        |o| {
            sees(o, |seen| seen.wal_senders = Room::new(0, 0));
            streams_only(o);
            fails(o, "WalArchiving", "StreamingRefused");
        },
    ),
    ("wal-archiving", "WalNotArchived", "mend it", |o| {
        fails(o, "WalArchiving", "AccessDenied")
    }),
    ("wal-archiving", "WalNotArchived", "mend it", |o| {
        sees(o, |seen| seen.wal_senders = Room::new(1, 1));
        streams_only(o);
        fails(o, "WalArchiving", "ArchiveUnavailable");
    }),
    ("disk", "SlotOverCeiling", "mend it", |o| {
        fails(o, "SlotWithinCeiling", "SlotOverCeiling");
        keeps(o, 50 << 30);
    }),
    ("member", "NoPrimary", "StatefulSet orders", |o| {
        status(o).primary = None
    }),
    ("pod", "StatefulSetNotFound", "StatefulSet orders", |o| {
        o.source = None
    }),
    ("pod", "PrimaryNotRunning", "pod orders-0", |o| {
        o.source.as_mut().unwrap().pod = None
    }),
    ("snapshot-api", "SnapshotsNotServed", "install", |o| {
        let source = o.source.as_mut().unwrap();
        (source.not_served, source.classes) = (true, Vec::new());
    }),
    ("volumes", "NoSnapshotClass", "install one", |o| {
        o.source.as_mut().unwrap().classes.clear()
    }),
    ("volumes", "ClaimNotBound", "data-orders-0", |o| {
        drop(o.source.as_mut().unwrap().claims.remove("data-orders-0"));
    }),
    (
        "directories",
        "DataDirectoryNotOnVolume",
        "/elsewhere",
        |o| {
            status(o).database.as_mut().unwrap().data_directory = "/elsewhere".to_owned();
        },
    ),
];

/// The first rule that does not hold.
fn first_broken(observed: &Observed) -> Option<(&'static str, Rejection)> {
    let mut rules = RULES.iter();
    rules.find_map(|(name, rule)| Some((*name, rule(observed).err()?)))
}

#[test]
fn each_rule_says_what_is_wrong_and_no_other_does_before_it() {
    assert_eq!(first_broken(&base()), None);
    for (rule, reason, word, change) in BROKEN {
        let mut observed = base();
        change(&mut observed);
        let (name, rejection) = first_broken(&observed).unwrap_or_else(|| panic!("{rule}"));
        assert_eq!((name, rejection.reason()), (rule, reason));
        assert!(rejection.to_string().contains(word), "{rejection}");
        assert_eq!(check(&observed), Err(rejection));
    }
    let names: BTreeSet<&str> = RULES.iter().map(|(name, _)| *name).collect();
    let tried: BTreeSet<&str> = BROKEN.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, tried, "each is tried");
    assert_eq!(names.len(), RULES.len(), "each has a name of its own");
}

#[test]
fn what_a_backup_can_do_without_holds_none_up() {
    let does_without: [(&str, Change); 10] = [
        ("a standby's slot is over the ceiling", |o| {
            fails(o, "SlotWithinCeiling", "SlotOverCeiling");
            keeps(o, (50 << 30) - 1);
        }),
        ("the primary before had not enough", |o| {
            sees(o, |seen| {
                "orders-1".clone_into(&mut seen.pod);
                seen.connections = Room::new(97, 97);
            });
        }),
        ("nothing is known of the primary", |o| {
            status(o).preflight = None
        }),
        ("there is enough", |o| sees(o, |_| ())),
        ("all slots are in use, and one is ours", |o| {
            sees(o, |seen| seen.replication_slots = Room::new(10, 10));
        }),
        ("PostgreSQL archives by itself, and needs no slot", |o| {
            let policy = o.policy.as_mut().unwrap();
            policy.spec.wal.transport = Transport::ArchiveCommand;
            sees(o, |seen| {
                (seen.holds_slot, seen.replication_slots) = (false, Room::new(0, 0))
            });
        }),
        ("WAL comes without a WAL sender", |o| {
            sees(o, |seen| seen.wal_senders = Room::new(0, 0));
        }),
        ("it streams, with the last one", |o| {
            sees(o, |seen| seen.wal_senders = Room::new(1, 1));
            streams_only(o);
        }),
        ("a slot is half full", |o| {
            fails(o, "SlotWithinCeiling", "HalfOfCeiling")
        }),
        ("the next checkpoint has the archiver go on", |o| {
            fails(o, "WalArchiving", "WaitsForCheckpoint");
        }),
    ];
    for (what, change) in does_without {
        let mut observed = base();
        change(&mut observed);
        assert_eq!(check(&observed), Ok(()), "{what}");
    }
}
