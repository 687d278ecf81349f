//! One case for each rule and pattern of the schemas: an input that passes, one that does not, and what the admin is told.
//!
//! Included by the unit tests, which evaluate the rules themselves, and by the flow tests, which ask the real API server.

mod granted;
mod into;
mod names;
mod program;
mod retention;
mod schedule;

use serde_json::{Value, json};

/// One rule.
pub struct Case {
    /// The kind it is in.
    pub kind: &'static str,
    /// For rules about changes: the spec before.
    pub before: Option<Value>,
    /// A spec that passes.
    pub good: Value,
    /// A spec that does not.
    pub bad: Value,
    /// What the API server says of it, or a part of that.
    pub message: &'static str,
}

fn s3(more: Value) -> Value {
    let mut s3 = json!({"bucket": "backups"});
    merge(&mut s3, more);
    json!({ "s3": s3 })
}

fn encrypted(recipients: Value) -> Value {
    json!({"s3": {"bucket": "backups"}, "encryption": {"recipients": recipients}})
}

fn limited(mut archive: Value, rate: &str) -> Value {
    archive["limits"] = json!({"uploadBytesPerSecond": rate, "parallelUploads": 4});
    archive
}

const TOO_SLOW: &str = "uploadBytesPerSecond must be at least 64Ki";

fn azure(more: Value) -> Value {
    let mut azure = json!({"container": "backups", "account": "backups"});
    merge(&mut azure, more);
    json!({ "azure": azure })
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

fn restore(target: Value) -> Value {
    json!({"source": {"protection": "orders"}, "target": target, "into": {"statefulSet": "orders-restored"}})
}

/// The rules of the schemas' CEL. Their messages are exactly these.
pub fn rules() -> Vec<Case> {
    let [archives, changes, restores] = [archive_rules(), change_rules(), restore_rules()];
    archives
        .into_iter()
        .chain(texts())
        .chain(changes)
        .chain(restores)
        .chain(undecodable())
        .chain(into::rules())
        .chain(granted::rules())
        .chain(names::rules())
        .chain(program::rules())
        .chain(retention::rules())
        .chain(schedule::rules())
        .collect()
}

/// What looks as it should, and is no time, no timeline or no size: what is accepted must be possible to decode.
fn undecodable() -> Vec<Case> {
    let times = [
        ("2028-02-29T14:03:12Z", "2026-02-29T14:03:12Z"),
        ("2000-02-29T14:03:12Z", "2100-02-29T14:03:12Z"),
        ("2026-11-30T14:03:12Z", "2026-11-31T14:03:12Z"),
        ("2026-12-31T14:03:12Z", "2026-13-01T14:03:12Z"),
        ("2026-01-01T14:03:12Z", "2026-00-01T14:03:12Z"),
        ("2026-11-01T14:03:12Z", "2026-11-00T14:03:12Z"),
        ("2026-11-20T00:00:00Z", "2026-11-20T24:00:00Z"),
        ("2026-11-20T23:59:59Z", "2026-11-20T25:03:12Z"),
        ("2026-11-20 14:59:12+00", "2026-11-20 14:60:12+00"),
        ("2026-11-20 14:03:59 UTC", "2026-11-20 14:03:60 UTC"),
        ("2026-11-20T14:03:12+14:00", "2026-11-20T14:03:12+30:00"),
        ("2026-11-20T14:03:12-15:59", "2026-11-20T14:03:12-16:00"),
        ("2026-11-20T14:03:12+0530", "2026-11-20T14:03:12+0560"),
        ("2999-12-31T14:03:12Z", "9999-12-31T14:03:12Z"),
        ("1000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
    ];
    let times = times
        .into_iter()
        .map(|(good, bad)| target("time", json!(good), json!(bad), TIME));
    let timelines = [
        (json!(4_294_967_295_u32), json!(4_294_967_296_u64)),
        (json!("4294967295"), json!(9_999_999_999_u64)),
        (json!("1"), json!(0)),
        (json!(2), json!("-2")),
    ];
    let timelines = timelines.map(|(good, bad)| target("timeline", good, bad, TIMELINE));
    let ceilings = [
        ("9999999Ti", "99999999Ti"),
        ("9999999999Gi", "99999999999Gi"),
    ];
    let ceilings = ceilings.map(|(good, bad)| Case {
        kind: "PgBackupPolicy",
        before: None,
        good: json!({"archive": "main", "wal": {"slotCeiling": good}}),
        bad: json!({"archive": "main", "wal": {"slotCeiling": bad}}),
        message: SIZE,
    });
    times.chain(timelines).chain(ceilings).collect()
}

fn target(field: &str, good: Value, bad: Value, message: &'static str) -> Case {
    Case {
        kind: "PgRestore",
        before: None,
        good: restore(json!({ field: good })),
        bad: restore(json!({ field: bad })),
        message,
    }
}

const TIME: &str = "want a date and time with a zone, as in 2026-11-20T14:03:12Z, 2026-11-20 15:03:12.5+01 or 2026-11-20 14:03:12 UTC";
const TIMELINE: &str = "want Latest, Current or the number of a timeline, as in 2";
const SIZE: &str = "want a whole number of bytes, or one with Ki, Mi, Gi or Ti, as in 50Gi";

/// What a text must look like.
fn texts() -> Vec<Case> {
    let case = |kind, good, bad, message| Case {
        kind,
        before: None,
        good,
        bad,
        message,
    };
    let policy = |more: Value| {
        let mut policy = json!({"archive": "main"});
        merge(&mut policy, more);
        policy
    };
    let protection =
        |name: &str| json!({"statefulSet": "orders", "policy": "gold", "archiveName": name});
    let into = |into: Value| json!({"source": {"protection": "orders"}, "target": {"latest": {}}, "into": into});
    let duration = "want a whole number and one of s, m, h, d, as in 5s or 14d";
    vec![
        case(
            "PgBackupPolicy",
            policy(json!({"deadlines": {"cut": "10m"}})),
            policy(json!({"deadlines": {"cut": "ten"}})),
            duration,
        ),
        case(
            "PgBackupPolicy",
            policy(json!({"wal": {"tailInterval": "5s"}})),
            policy(json!({"wal": {"tailInterval": "5 s"}})),
            duration,
        ),
        case(
            "PgBackupPolicy",
            policy(json!({"wal": {"synchronous": true, "transport": "streaming"}})),
            policy(json!({"wal": {"synchronous": true, "transport": "sql"}})),
            "synchronous needs streaming: set transport to Auto or streaming",
        ),
        case(
            "PgBackupPolicy",
            policy(json!({"wal": {"transport": "archive_command"}})),
            policy(json!({"wal": {"synchronous": true, "transport": "archive_command"}})),
            "synchronous needs streaming: set transport to Auto or streaming",
        ),
        case(
            "PgBackupPolicy",
            policy(json!({"wal": {"slotCeiling": "50Gi"}})),
            policy(json!({"wal": {"slotCeiling": "50GB"}})),
            SIZE,
        ),
        case(
            "PgArchive",
            json!({"s3": {"bucket": "backups"}, "prefix": "prod/eu/"}),
            json!({"s3": {"bucket": "backups"}, "prefix": "prod"}),
            "prefix must be empty or end in /, as in prod/, and hold only A-Z, a-z, 0-9, /, and !_.*'()-",
        ),
        case(
            "PgArchive",
            s3(json!({"endpoint": "https://s3.example.com"})),
            s3(json!({"endpoint": "s3.example.com"})),
            "endpoint must be a URL, as in https://s3.example.com",
        ),
        case(
            "PgArchive",
            json!({"gcs": {"bucket": "backups", "endpoint": "https://storage.example.com"}}),
            json!({"gcs": {"bucket": "backups", "endpoint": "storage.example.com"}}),
            "endpoint must be a URL, as in https://storage.example.com",
        ),
        case(
            "PgArchive",
            azure(json!({"endpoint": "https://account.blob.core.usgovcloudapi.net"})),
            azure(json!({"endpoint": "account"})),
            "endpoint must be a URL, as in https://account.blob.core.windows.net",
        ),
        case(
            "PgArchive",
            azure(json!({"account": "backups1"})),
            azure(json!({"account": "Backups-1"})),
            "account must be the name of a storage account: 3 to 24 of a-z and 0-9",
        ),
        case(
            "PgProtection",
            protection("shop.orders"),
            protection("shop/orders"),
            "archiveName must begin and end with a letter or digit, and hold only a-z, 0-9, . and -: it is a folder in the bucket",
        ),
        case(
            "PgRestore",
            into(json!({"statefulSet": "orders-2"})),
            into(json!({"statefulSet": "2-orders"})),
            "statefulSet must begin with a letter, end with a letter or digit, and hold only a-z, 0-9 and -: a Service gets the same name",
        ),
        case(
            "PgRestore",
            into(json!({"volumes": {"namePrefix": "orders-2"}})),
            into(json!({"volumes": {"namePrefix": "orders-"}})),
            "namePrefix must begin and end with a letter or digit, and hold only a-z, 0-9 and -",
        ),
        case(
            "PgRestore",
            restore(json!({"time": "2026-11-20T15:03:12.5+01:00"})),
            restore(json!({"time": "2026-11-20 15:03:12"})),
            TIME,
        ),
        case(
            "PgRestore",
            restore(json!({"timeline": 2})),
            restore(json!({"timeline": "2nd"})),
            TIMELINE,
        ),
    ]
}

const PLAIN_HTTP: &str = "the endpoint is plain http: set allowHttp to true if WAL and catalog may cross the network unencrypted";

fn archive_rules() -> Vec<Case> {
    vec![
        Case {
            kind: "PgArchive",
            before: None,
            good: s3(json!({})),
            bad: json!({"s3": {"bucket": "backups"}, "directory": {"persistentVolumeClaim": "wal"}}),
            message: "give exactly one of s3, gcs, azure and directory",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: json!({"directory": {"persistentVolumeClaim": "wal"}}),
            bad: json!({}),
            message: "give exactly one of s3, gcs, azure and directory",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: limited(json!({"s3": {"bucket": "backups"}}), "64Ki"),
            bad: limited(
                json!({"directory": {"persistentVolumeClaim": "wal"}}),
                "64Ki",
            ),
            message: "limits.uploadBytesPerSecond goes with a bucket: what is written to a directory is not limited",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: limited(json!({"s3": {"bucket": "backups"}}), "65536"),
            bad: limited(json!({"s3": {"bucket": "backups"}}), "63Ki"),
            message: TOO_SLOW,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: limited(json!({"s3": {"bucket": "backups"}}), "1Mi"),
            bad: limited(json!({"s3": {"bucket": "backups"}}), "65535"),
            message: TOO_SLOW,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: limited(json!({"s3": {"bucket": "backups"}}), "100Mi"),
            bad: limited(json!({"s3": {"bucket": "backups"}}), "0Gi"),
            message: TOO_SLOW,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: limited(json!({"s3": {"bucket": "backups"}}), "100100"),
            bad: limited(json!({"s3": {"bucket": "backups"}}), "fast"),
            message: SIZE,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: encrypted(json!([
                "age1qqqq",
                "ssh-ed25519 AAAA admin",
                "ssh-rsa AAAA"
            ])),
            bad: encrypted(json!(["age1qqqq", "AGE-SECRET-KEY-1QQQQ"])),
            message: "each recipient must be a public key, as in age1… or ssh-ed25519 …",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: s3(json!({"endpoint": "http://10.0.0.9:7070", "allowHttp": true})),
            bad: s3(json!({"endpoint": "http://10.0.0.9:7070"})),
            message: PLAIN_HTTP,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: json!({"gcs": {"bucket": "backups", "endpoint": "http://10.0.0.9", "allowHttp": true}}),
            bad: json!({"gcs": {"bucket": "backups", "endpoint": "http://10.0.0.9"}}),
            message: PLAIN_HTTP,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: azure(json!({"endpoint": "http://10.0.0.9/backups", "allowHttp": true})),
            bad: azure(json!({"endpoint": "http://10.0.0.9/backups", "allowHttp": false})),
            message: PLAIN_HTTP,
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: json!({"azure": {"container": "backups"}, "credentials": {"secretName": "bucket"}}),
            bad: json!({"azure": {"container": "backups"}}),
            message: "name the storage account in azure.account: without credentials nothing else tells it",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: azure(json!({})),
            bad: json!({"gcs": {"bucket": "backups"}, "azure": {"container": "backups", "account": "backups"}}),
            message: "give exactly one of s3, gcs, azure and directory",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: json!({"s3": {"bucket": "backups"}, "compression": {"algorithm": "zstd", "level": 5}}),
            bad: json!({"s3": {"bucket": "backups"}, "compression": {"algorithm": "none", "level": 5}}),
            message: "level goes with algorithm zstd",
        },
        Case {
            kind: "PgArchive",
            before: None,
            good: json!({"s3": {"bucket": "backups"}, "compression": {"algorithm": "zstd", "level": -1}}),
            bad: json!({"s3": {"bucket": "backups"}, "compression": {"algorithm": "zstd", "level": 0}}),
            message: "level is 1 to 19, or -7 to -1; leave it out for the default",
        },
        Case {
            kind: "PgArchive",
            before: Some(json!({"s3": {"bucket": "backups"}, "prefix": "prod/"})),
            good: json!({"s3": {"bucket": "elsewhere"}, "prefix": "prod/"}),
            bad: s3(json!({})),
            message: "prefix cannot be changed: what is archived would not be found any more; create a new PgArchive",
        },
    ]
}

fn change_rules() -> Vec<Case> {
    let protection = json!({"statefulSet": "orders", "policy": "gold"});
    let backup = json!({"protection": "orders", "reason": "Manual"});
    vec![
        Case {
            kind: "PgProtection",
            before: Some(protection.clone()),
            good: json!({"statefulSet": "orders", "policy": "silver"}),
            bad: json!({"statefulSet": "invoices", "policy": "gold"}),
            message: "statefulSet cannot be changed: create a new PgProtection",
        },
        Case {
            kind: "PgProtection",
            before: Some(protection.clone()),
            good: protection,
            bad: json!({"statefulSet": "orders", "policy": "gold", "archiveName": "other"}),
            message: "archiveName cannot be changed: create a new PgProtection",
        },
        Case {
            kind: "PgBackup",
            before: Some(backup.clone()),
            good: backup,
            bad: json!({"protection": "invoices", "reason": "Manual"}),
            message: "spec is immutable: create a new PgBackup",
        },
        Case {
            kind: "PgRestore",
            before: Some(restore(json!({"latest": {}}))),
            good: restore(json!({"latest": {}})),
            bad: restore(json!({"lsn": "3/58000138"})),
            message: "spec is immutable: create a new PgRestore",
        },
    ]
}

fn restore_rules() -> Vec<Case> {
    let time = "2026-11-20T14:03:12.5Z";
    vec![
        Case {
            kind: "PgRestore",
            before: None,
            good: restore(json!({"time": time, "inclusive": false})),
            bad: restore(json!({"time": time, "latest": {}})),
            message: "give exactly one of latest, time, lsn, xid, name and immediate",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: restore(json!({"latest": {}})),
            bad: restore(json!({"latest": {}, "inclusive": false})),
            message: "inclusive goes with time, lsn or xid",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"backup": "orders-1"}, "into": {"volumes": {"namePrefix": "copy"}}}),
            bad: json!({"source": {"backup": "orders-1", "protection": "orders"}, "into": {"statefulSet": "copy"}}),
            message: "give exactly one of protection, backup and archive",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"archive": {"archive": "main", "name": "shop-orders"}}, "planOnly": true}),
            bad: json!({"source": {"archive": {"archive": "main", "name": "shop/orders"}}, "planOnly": true}),
            message: "name must begin and end with a letter or digit, and hold only a-z, 0-9, . and -: it is a folder in the bucket",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"backup": "orders-1"}, "into": {"statefulSet": "copy"}}),
            bad: json!({"source": {"backup": "orders-1"},
                "into": {"statefulSet": "copy", "volumes": {"namePrefix": "copy"}}}),
            message: "give exactly one of statefulSet, volumes and inPlace",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"backup": "orders-1"}, "planOnly": true}),
            bad: json!({"source": {"backup": "orders-1"}, "planOnly": false}),
            message: "into is missing: give statefulSet, volumes or inPlace, or planOnly: true to see only what would be done",
        },
        Case {
            kind: "PgRestore",
            before: None,
            good: json!({"source": {"backup": "orders-1"}, "verify": {"checks": ["Amcheck"]}}),
            bad: json!({"source": {"backup": "orders-1"}, "verify": {}, "into": {"statefulSet": "copy"}}),
            message: "into and verify: a drill makes claims of its own and deletes them; leave one of the two out",
        },
    ]
}
