//! Which backups are kept.

use serde_json::{Value, json};

use super::Case;

fn case(good: Value, bad: Value, message: &'static str) -> Case {
    let policy = |retention: Value| json!({"archive": "main", "retention": retention});
    Case {
        kind: "PgBackupPolicy",
        before: None,
        good: policy(good),
        bad: policy(bad),
        message,
    }
}

pub fn rules() -> Vec<Case> {
    vec![
        case(
            json!({"window": "14d"}),
            json!({"minimum": 2}),
            "retention needs a window, as in 14d, or keep, as in {last: 7}: leave retention out to keep everything",
        ),
        case(
            json!({"keep": {"last": 7}}),
            json!({"window": "14d", "keep": {}}),
            "keep needs a number of last, hourly, daily, weekly, monthly or yearly",
        ),
        case(
            json!({"window": "14d"}),
            json!({"window": "2w"}),
            "want a whole number and one of s, m, h, d, as in 5s or 14d",
        ),
        case(
            json!({"keep": {"daily": 7}, "timeZone": "Europe/Berlin"}),
            json!({"keep": {"daily": 7}, "timeZone": "Europe/ Berlin"}),
            "timeZone must be a name of the time zone database, as in Europe/Berlin",
        ),
    ]
}
