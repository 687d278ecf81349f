//! When backups are taken.

use serde_json::{Value, json};

use super::Case;

const SIX: &str = "cron has five fields: minute, hour, day of month, month, day of week. There are none for seconds or years: leave the sixth out";
const NO_TIME: &str = "cron must be five fields, as in 0 2 * * *, a word, as in @daily, or a period of whole minutes, hours or days, as in @every 6h";

fn schedule(more: Value) -> Value {
    let mut schedule = json!({"name": "nightly", "cron": "0 2 * * *"});
    super::merge(&mut schedule, more);
    json!({"archive": "main", "schedules": [schedule]})
}

fn case(good: Value, bad: Value, message: &'static str) -> Case {
    Case {
        kind: "PgBackupPolicy",
        before: None,
        good: schedule(good),
        bad: schedule(bad),
        message,
    }
}

fn drills(good: Value, bad: Value, message: &'static str) -> Case {
    let policy = |more: Value| {
        let mut verify = json!({"cron": "0 5 * * 0", "drill": {"checks": ["Amcheck"]}});
        super::merge(&mut verify, more);
        json!({"archive": "main", "verify": verify})
    };
    Case {
        kind: "PgBackupPolicy",
        before: None,
        good: policy(good),
        bad: policy(bad),
        message,
    }
}

pub fn rules() -> Vec<Case> {
    let crons = [
        ("0 2 * * *", "0 0 2 * * *", SIX),
        ("*/15 0-6,22 1 JAN-mar 0", "0 0 2 * * * 2027", SIX),
        ("@daily", "@dayly", NO_TIME),
        ("@every 6h", "@every 30s", NO_TIME),
        ("@every 90m", "@every 0h", NO_TIME),
        ("59 23 31 12 7", "60 23 31 12 7", NO_TIME),
        ("0 0  * * sun", "0 24 * * sun", NO_TIME),
        ("0 0-23/2 * * *", "0 0/2 * * *", NO_TIME),
        ("0 0 1,15 * *", "0 0 L * *", NO_TIME),
        ("@hourly", "0 2 * *", NO_TIME),
    ];
    let crons = crons
        .map(|(good, bad, message)| case(json!({"cron": good}), json!({"cron": bad}), message));
    let zone = "timeZone must be a name of the time zone database, as in Europe/Berlin";
    let elapsed = "timeZone says nothing with @every, which counts elapsed time: leave it out, or name the hour, as in 0 2 * * *";
    let name = "name must begin and end with a letter or digit, and hold only a-z, 0-9 and -";
    let others = [
        case(
            json!({"timeZone": "America/Argentina/Salta"}),
            json!({"timeZone": "Europe/"}),
            zone,
        ),
        case(
            json!({"timeZone": "Etc/GMT+5"}),
            json!({"timeZone": "+05:00"}),
            zone,
        ),
        case(
            json!({"cron": "@daily", "timeZone": "Europe/Berlin"}),
            json!({"cron": "@every 24h", "timeZone": "Europe/Berlin"}),
            elapsed,
        ),
        case(
            json!({"name": "twice-a-day"}),
            json!({"name": "Nightly"}),
            name,
        ),
        case(
            json!({"jitter": "30m"}),
            json!({"jitter": "1h30m"}),
            "want a whole number and one of s, m, h, d, as in 5s or 14d",
        ),
    ];
    let drills = [
        drills(
            json!({"cron": "0 5 * * 0"}),
            json!({"cron": "0 0 5 * * 0"}),
            SIX,
        ),
        drills(
            json!({"cron": "@weekly"}),
            json!({"cron": "@fortnightly"}),
            NO_TIME,
        ),
        drills(
            json!({"timeZone": "Europe/Berlin"}),
            json!({"timeZone": "Europe/"}),
            zone,
        ),
        drills(
            json!({"timeZone": "Europe/Berlin"}),
            json!({"cron": "@every 7d", "timeZone": "Europe/Berlin"}),
            elapsed,
        ),
    ];
    crons.into_iter().chain(others).chain(drills).collect()
}
