//! How PostgreSQL is started for recovery. Pure.
//!
//! Everything is given on the command line: it wins over `postgresql.auto.conf`, which PostgreSQL reads whatever its
//! `config_file` is, and it leaves the user's files as they are. Nothing secret is among it.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use super::reader::READER;
use crate::{
    api::{RestorePlan, StopAt},
    postgres::TimelineId,
};

/// Settings of the source without which PostgreSQL refuses to replay its WAL, even with `hot_standby = off`.
const RECORDED: [&str; 6] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
];

/// Libraries that start work of their own: jobs, replication, calls to the world. None of them is needed for replay.
const JOB_RUNNERS: [&str; 14] = [
    "bdr",
    "citus",
    "pg_background_worker",
    "pg_cron",
    "pg_later",
    "pg_net",
    "pg_partman_bgw",
    "pg_squeeze",
    "pg_task",
    "pgagent",
    "pglogical",
    "powa",
    "spock",
    "timescaledb",
];

/// Emptied before anything else is set: a value left in the user's files beside ours is "multiple recovery targets".
const EMPTIED: [&str; 14] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "primary_conninfo",
    "primary_slot_name",
    "archive_cleanup_command",
    "recovery_end_command",
    "synchronous_standby_names",
    "listen_addresses",
    "session_preload_libraries",
    "local_preload_libraries",
    "external_pid_file",
];

/// Constant settings: a private server that takes nothing from the source and starts nothing.
const FIXED: [(&str, &str); 20] = [
    ("recovery_min_apply_delay", "0"),
    ("recovery_target_action", "promote"),
    ("archive_mode", "off"),
    ("hot_standby", "off"),
    ("max_logical_replication_workers", "0"),
    ("autovacuum", "off"),
    ("fsync", "on"),
    ("ssl", "off"),
    ("port", "5432"),
    ("unix_socket_permissions", "0700"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", ""),
    ("log_statement", "none"),
    ("log_min_messages", "warning"),
    ("log_min_duration_statement", "-1"),
    ("lc_messages", "C"),
    ("statement_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("restart_after_crash", "off"),
];

/// What the command line is made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What is restored.
    pub plan: &'a RestorePlan,
    /// The source's settings, as its manifest records them.
    pub recorded: &'a BTreeMap<String, String>,
    /// Libraries to preload; see [`preload_libraries`].
    pub preload: &'a [String],
    /// Settings that pg_control records and that a start with another value would change for good.
    pub from_control: &'a BTreeMap<String, String>,
    /// Highwater's own binary.
    pub program: &'a Path,
    /// A private directory: configuration, socket, fetch's file.
    pub work: &'a Path,
    /// PGDATA.
    pub pgdata: &'a Path,
    /// Where a drill's program finds it; absent: it listens on no address.
    pub address: Option<IpAddr>,
    /// Whether there is WAL to replay; otherwise PostgreSQL has been promoted before and only starts.
    pub replay: bool,
}

/// Names of the files in [`Inputs::work`].
pub mod files {
    /// Instead of the user's postgresql.conf.
    pub const CONFIGURATION: &str = "postgresql.conf";
    /// Instead of the user's pg_hba.conf.
    pub const HBA: &str = "pg_hba.conf";
    /// Instead of the user's pg_ident.conf.
    pub const IDENT: &str = "pg_ident.conf";
    /// What fetch must know.
    pub const FETCH: &str = "fetch.json";
    /// What fetch tells.
    pub const PROGRESS: &str = "progress.json";
    /// Where fetch gets what was prefetched.
    pub const SOCKET: &str = "fetch.sock";
}

/// Through the socket, whose directory only PostgreSQL's own user may enter. Through `address`, where other containers of
/// the pod are, the drill's role alone, by its password: there is no line for anybody else.
pub fn hba(address: Option<IpAddr>) -> String {
    let host = address.map(|_| format!("host all {READER} samehost scram-sha-256\n"));
    format!("local all all trust\n{}", host.unwrap_or_default())
}

/// The arguments after `postgres`.
pub fn arguments(inputs: &Inputs<'_>) -> Vec<String> {
    let mut settings: Vec<(&str, String)> = EMPTIED.map(|name| (name, String::new())).to_vec();
    let file = |name: &str| inputs.work.join(name).to_string_lossy().into_owned();
    settings.push(("config_file", file(files::CONFIGURATION)));
    settings.push(("hba_file", file(files::HBA)));
    settings.push(("ident_file", file(files::IDENT)));
    settings.push((
        "unix_socket_directories",
        inputs.work.to_string_lossy().into_owned(),
    ));
    settings.extend(FIXED.map(|(name, value)| (name, value.to_owned())));
    if let Some(address) = inputs.address {
        settings.push(("listen_addresses", address.to_string()));
    }
    for name in RECORDED {
        if let Some(value) = inputs.recorded.get(name) {
            settings.push((name, value.clone()));
        }
    }
    for (name, value) in inputs.from_control {
        settings.push((name, value.clone()));
    }
    settings.push(("shared_preload_libraries", inputs.preload.join(",")));
    if inputs.replay {
        settings.extend(recovery(inputs));
    }
    let mut arguments = vec![
        "-D".to_owned(),
        inputs.pgdata.to_string_lossy().into_owned(),
    ];
    for (name, value) in settings {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    arguments
}

fn recovery(inputs: &Inputs<'_>) -> Vec<(&'static str, String)> {
    let fetch = inputs.work.join(files::FETCH);
    let mut settings = vec![
        (
            "restore_command",
            format!(
                r#"{} wal fetch --config {} %f "%p""#,
                quoted(inputs.program),
                quoted(&fetch)
            ),
        ),
        ("recovery_target_timeline", timeline(inputs.plan.timeline)),
    ];
    if let Some(stop) = &inputs.plan.stop_at {
        settings.extend(target(stop));
    }
    settings
}

/// A number, never `latest`: another timeline may appear in the archive at any time.
fn timeline(timeline: TimelineId) -> String {
    timeline.get().to_string()
}

fn target(stop: &StopAt) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(time) = &stop.time {
        let text = time.0.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string();
        settings.push(("recovery_target_time", text));
    }
    if let Some(lsn) = stop.lsn {
        settings.push(("recovery_target_lsn", lsn.to_string()));
    }
    if let Some(xid) = stop.xid {
        settings.push(("recovery_target_xid", xid.to_string()));
    }
    let inclusive = if stop.inclusive { "on" } else { "off" };
    settings.push(("recovery_target_inclusive", inclusive.to_owned()));
    settings
}

/// For the shell that runs a `restore_command`, where `%` is special too.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\'', r"'\''");
    format!("'{}'", text.replace('%', "%%"))
}

/// The source's `shared_preload_libraries` without those that start work of their own: a library may bring WAL records
/// of its own, which PostgreSQL then cannot replay without it.
pub fn preload_libraries(recorded: &BTreeMap<String, String>) -> Vec<String> {
    let list = recorded
        .get("shared_preload_libraries")
        .map_or("", String::as_str);
    list.split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty() && !JOB_RUNNERS.contains(&library_name(name)))
        .collect()
}

/// The library that could not be loaded, if that is why PostgreSQL did not start.
pub fn missing_library<'a>(preload: &'a [String], log: &[String]) -> Option<&'a String> {
    log.iter().find_map(|line| {
        let failed = library_name(failed_file(line)?);
        preload.iter().find(|name| library_name(name) == failed)
    })
}

/// PostgreSQL names the file first, in quotes; the loader's own words follow, and may name others.
fn failed_file(line: &str) -> Option<&str> {
    let said = [r#"could not access file ""#, r#"could not load library ""#];
    let (_, rest) = said.iter().find_map(|said| line.split_once(said))?;
    rest.split_once('"').map(|(file, _)| file)
}

/// What is left of a library's path without directory and ending.
fn library_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".so").unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::server::RECORDED_SETTINGS;

    fn plan(stop_at: serde_json::Value) -> RestorePlan {
        serde_json::from_value(serde_json::json!({
            "summary": "", "backup": "b", "backupKey": "k", "archive": "a", "archiveName": "n", "lineage": "0000000000",
            "timeline": 3, "walFrom": "0/28", "walTo": "1/28", "bytes": 1, "stopAt": stop_at,
        }))
        .unwrap()
    }

    fn settings(plan: &RestorePlan, replay: bool) -> Vec<String> {
        let recorded = BTreeMap::from([
            ("max_connections".to_owned(), "300".to_owned()),
            ("work_mem".to_owned(), "1GB".to_owned()),
        ]);
        let from_control = BTreeMap::from([("track_commit_timestamp".to_owned(), "on".to_owned())]);
        let arguments = arguments(&Inputs {
            plan,
            recorded: &recorded,
            preload: &["auto_explain".to_owned(), "b".to_owned()],
            from_control: &from_control,
            program: Path::new("/highwater/bin/highwater"),
            work: Path::new("/highwater/run"),
            pgdata: Path::new("/pg data"),
            address: None,
            replay,
        });
        assert_eq!(arguments[..2], ["-D", "/pg data"]);
        let (flags, settings): (Vec<_>, Vec<_>) = arguments[2..]
            .iter()
            .cloned()
            .enumerate()
            .partition(|(at, _)| at % 2 == 0);
        assert!(flags.iter().all(|(_, flag)| flag == "-c"));
        settings.into_iter().map(|(_, setting)| setting).collect()
    }

    #[test]
    fn every_old_target_is_emptied_before_ours_is_set() {
        let settings = settings(
            &plan(serde_json::json!({"time": "2026-11-20T14:03:12.500000Z", "inclusive": true})),
            true,
        );
        let at = |wanted: &str| {
            settings
                .iter()
                .position(|setting| setting == wanted)
                .unwrap_or_else(|| panic!("{wanted} in {settings:?}"))
        };
        let ours = at("recovery_target_time=2026-11-20 14:03:12.500000+00");
        for emptied in EMPTIED {
            assert!(at(&format!("{emptied}=")) < ours, "{emptied}");
        }
        at("recovery_target_inclusive=on");
        at("recovery_target_timeline=3");
        at("recovery_target_action=promote");
        at("max_connections=300");
        at("track_commit_timestamp=on");
        at("shared_preload_libraries=auto_explain,b");
        at(
            r#"restore_command='/highwater/bin/highwater' wal fetch --config '/highwater/run/fetch.json' %f "%p""#,
        );
        assert!(!settings.iter().any(|s| s.starts_with("work_mem")));
    }

    /// Literally, so that one that is taken out of a list above is missed here.
    #[test]
    fn each_setting_of_the_design_is_there() {
        let settings = settings(
            &plan(serde_json::json!({"time": "2026-11-20T14:03:12Z", "inclusive": true})),
            true,
        );
        let at = |wanted: &str| settings.iter().position(|setting| setting == wanted);
        let ours = at("recovery_target_time=2026-11-20 14:03:12.000000+00");
        for wanted in [
            // A value of the user's beside ours would be one target too many.
            "recovery_target=",
            "recovery_target_lsn=",
            "recovery_target_name=",
            "recovery_target_time=",
            "recovery_target_xid=",
            // It would stream from the source, in a real standby's slot.
            "primary_conninfo=",
            "primary_slot_name=",
            // The user's commands act on the user's archive.
            "archive_cleanup_command=",
            "recovery_end_command=",
            "listen_addresses=",
            "synchronous_standby_names=",
            "session_preload_libraries=",
            "local_preload_libraries=",
        ] {
            let position = at(wanted);
            assert!(position.is_some() && position < ours, "{wanted}");
        }
        for wanted in [
            "recovery_min_apply_delay=0",
            "recovery_target_action=promote",
            "recovery_target_timeline=3",
            "archive_mode=off",
            "hot_standby=off",
            // A started copy of a subscriber would take its place at the publisher.
            "max_logical_replication_workers=0",
            "autovacuum=off",
            "fsync=on",
            "unix_socket_directories=/highwater/run",
            "unix_socket_permissions=0700",
            "hba_file=/highwater/run/pg_hba.conf",
            "config_file=/highwater/run/postgresql.conf",
        ] {
            assert!(at(wanted).is_some(), "{wanted}");
        }
    }

    #[test]
    fn what_recovery_needs_is_recorded() {
        for needed in RECORDED.iter().chain(&["shared_preload_libraries"]) {
            assert!(RECORDED_SETTINGS.contains(needed), "{needed}");
        }
    }

    #[test]
    fn a_transaction_that_only_recovery_can_find() {
        let stop = serde_json::json!({"xid": 820, "inclusive": false});
        let settings = settings(&plan(stop), true);
        assert!(settings.contains(&"recovery_target_xid=820".to_owned()));
        assert!(settings.contains(&"recovery_target_inclusive=off".to_owned()));
    }

    #[test]
    fn an_lsn_and_no_stop_at_all() {
        let lsn = settings(
            &plan(serde_json::json!({"lsn": "0/5000", "inclusive": false})),
            true,
        );
        assert!(lsn.contains(&"recovery_target_lsn=0/5000".to_owned()));
        assert!(lsn.contains(&"recovery_target_inclusive=off".to_owned()));
        let end = settings(&plan(serde_json::Value::Null), true);
        assert!(
            !end.iter()
                .any(|s| s.starts_with("recovery_target_inclusive"))
        );
    }

    #[test]
    fn a_promoted_database_gets_no_recovery_settings() {
        let settings = settings(&plan(serde_json::Value::Null), false);
        assert!(!settings.iter().any(|s| s.starts_with("restore_command")));
        assert!(settings.contains(&"listen_addresses=".to_owned()));
    }

    /// Who comes over an address is the drill's role or nobody, and there is no address without a program.
    #[test]
    fn nobody_comes_from_elsewhere() {
        assert_eq!(hba(None), "local all all trust\n");
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(
            hba(address),
            "local all all trust\nhost all highwater_drill samehost scram-sha-256\n"
        );
    }

    #[test]
    fn libraries_that_run_jobs_are_left_out() {
        let recorded = BTreeMap::from([(
            "shared_preload_libraries".to_owned(),
            r#"pg_stat_statements, "pg_cron",$libdir/pglogical,auto_explain"#.to_owned(),
        )]);
        let preload = preload_libraries(&recorded);
        assert_eq!(preload, ["pg_stat_statements", "auto_explain"]);
        let log = [
            r#"FATAL:  could not access file "auto_explain": No such file or directory"#.to_owned(),
        ];
        assert_eq!(missing_library(&preload, &log).unwrap(), "auto_explain");
        assert_eq!(missing_library(&preload, &[]), None);
    }

    #[test]
    fn a_library_is_not_blamed_for_another() {
        let preload = ["pg_stat", "/opt/lib/mine.so", "pg_stat_x"].map(str::to_owned);
        let blamed = |line: &str| {
            let log = ["LOG:  starting PostgreSQL".to_owned(), line.to_owned()];
            missing_library(&preload, &log).map(String::as_str)
        };
        for (line, expected) in [
            (
                r#"FATAL:  could not access file "pg_stat_x": No such file or directory"#,
                Some("pg_stat_x"),
            ),
            (
                r#"FATAL:  could not access file "pg_stat": No such file or directory"#,
                Some("pg_stat"),
            ),
            (
                r#"FATAL:  could not access file "$libdir/pg_stat_x": No such file or directory"#,
                Some("pg_stat_x"),
            ),
            (
                r#"FATAL:  could not load library "/opt/lib/mine.so": libpg_stat.so.1: cannot open shared object file"#,
                Some("/opt/lib/mine.so"),
            ),
            (
                r#"FATAL:  could not load library "/usr/lib/pg_stat_x.so": /usr/lib/pg_stat_x.so: undefined symbol: pg_stat"#,
                Some("pg_stat_x"),
            ),
            // Neither a library of ours nor a failed one.
            (
                r#"FATAL:  could not access file "pg_stat_y": No such file or directory"#,
                None,
            ),
            (r#"LOG:  loaded library "pg_stat""#, None),
        ] {
            assert_eq!(blamed(line), expected, "{line}");
        }
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a'b%c")), r"'/a'\''b%%c'");
    }
}
