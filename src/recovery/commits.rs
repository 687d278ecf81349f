//! How far in time the replay is: the last commit in the segments before the one that was fetched last, as the archive's
//! index has it. PostgreSQL itself cannot be asked before it was promoted.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    archive,
    fetch::{FetchConfig, FetchProgress, before},
};
use crate::{
    api::RestoreProgress, archive::Lineage, clock::micro_time, controller::context::Chain,
    postgres::SegmentName,
};

/// How often the index is looked into: of a segment that is far back in it, that is a list of what was rolled up.
const PERIOD: Duration = Duration::from_secs(3);

/// Looks now and then, until it is dropped. Whatever cannot be read is not said; recovery does not depend on it.
pub async fn follow(config: &FetchConfig, progress: &watch::Sender<RestoreProgress>) -> Infallible {
    let lineage = match archive::lineage(config) {
        Ok(lineage) => lineage,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "recovering without saying up to which time");
            return std::future::pending().await;
        }
    };
    let mut seen = None;
    loop {
        sleep(PERIOD).await;
        let reached = FetchProgress::read(&config.progress).reached;
        let name = reached.and_then(|reached| before(reached, config.segment_size, &config.line));
        if let Some(name) = name.filter(|name| seen != Some(*name)) {
            seen = Some(name);
            look(&lineage, name, progress).await;
        }
    }
}

/// A segment without a commit, or without an entry, says nothing new.
async fn look(lineage: &Lineage, name: SegmentName, progress: &watch::Sender<RestoreProgress>) {
    let entry = match lineage.entry(name).await {
        Ok(entry) => entry,
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "failed to read the index entry of {name}");
            return;
        }
    };
    // Of a segment whose records nobody read, the entry says nothing.
    let Some(at) = entry.and_then(|entry| entry.last_commit).map(micro_time) else {
        return;
    };
    progress.send_if_modified(|progress| {
        let is_later = progress
            .replayed_to
            .as_ref()
            .is_none_or(|known| known.0 < at.0);
        if is_later {
            progress.replayed_to = Some(at);
        }
        is_later
    });
}
