//! What `pg_controldata` prints of a data directory.

use std::collections::BTreeMap;

use crate::postgres::{SystemIdentifier, TimelineId};

/// The part of pg_control that recovery decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// The identifier that initdb gave the cluster.
    pub system_identifier: SystemIdentifier,
    /// As in `in archive recovery` or `shut down`.
    pub state: String,
    /// The timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// `track_commit_timestamp` and `wal_log_hints`: PostgreSQL drops what belongs to them if it starts without.
    pub kept_settings: BTreeMap<String, String>,
}

/// Output that lacks what recovery decides by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the output of pg_controldata: {0} is missing or malformed")]
pub struct ControlDataError(&'static str);

const KEPT: [&str; 2] = ["track_commit_timestamp", "wal_log_hints"];

impl ControlData {
    /// From the output in the C locale.
    ///
    /// # Errors
    /// A line that is needed is missing.
    pub fn parse(output: &str) -> Result<Self, ControlDataError> {
        let value = |label: &str| {
            output.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                (found == label).then(|| value.trim())
            })
        };
        let number = |label| value(label).and_then(|text| text.parse().ok());
        let kept = KEPT.iter().filter_map(|name| {
            value(&format!("{name} setting")).map(|set| ((*name).to_owned(), set.to_owned()))
        });
        Ok(Self {
            system_identifier: value("Database system identifier")
                .and_then(|text| text.parse().ok())
                .ok_or(ControlDataError("the system identifier"))?,
            state: value("Database cluster state")
                .ok_or(ControlDataError("the state"))?
                .to_owned(),
            timeline: number("Latest checkpoint's TimeLineID")
                .and_then(TimelineId::new)
                .ok_or(ControlDataError("the timeline"))?,
            kept_settings: kept.collect(),
        })
    }

    /// Whether PostgreSQL was stopped in order, outside recovery.
    pub fn is_shut_down(&self) -> bool {
        self.state == "shut down"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgresql_15_prints() {
        let data = ControlData::parse(include_str!("testdata/pg_controldata-15.txt")).unwrap();
        assert_eq!(data.state, "in archive recovery");
        assert_eq!(data.timeline.get(), 2);
        assert!(!data.is_shut_down());
        assert_eq!(
            data.kept_settings.get("track_commit_timestamp"),
            Some(&"off".to_owned())
        );
    }

    #[test]
    fn says_what_is_missing() {
        let error = ControlData::parse("Database cluster state: shut down\n").unwrap_err();
        assert!(error.to_string().contains("system identifier"), "{error}");
    }
}
