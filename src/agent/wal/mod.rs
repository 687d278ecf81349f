//! Shipping WAL from PostgreSQL to the archive, and watching what PostgreSQL archives by itself.

mod archiver;
mod buffer;
mod clocks;
mod compare;
mod error;
pub mod lag;
mod others;
mod plan;
mod route;
mod segment;
mod shipper;
mod source;
mod strays;
mod tap;
mod watcher;

pub use archiver::{ArchiverOff, ArchiverTrouble, Watched};
pub use error::Error;
pub use others::Other;
pub use plan::Path;
pub use route::{GapCause, Notice, Route, Signals};
pub use segment::Damage;
pub use shipper::Shipper;
pub use source::Source;
pub(super) use strays::conflict;
pub use tap::{Server, Tap, TapError};
pub use watcher::{Delays, Watcher, archives};

use crate::postgres::{HistoryError, Lsn, TimelineHistory, TimelineId};

/// The ancestors of `timeline`, oldest first, from its history file.
///
/// # Errors
/// Not a history file.
pub fn ancestors(
    timeline: TimelineId,
    text: &[u8],
) -> Result<Vec<(TimelineId, Lsn)>, HistoryError> {
    let history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(text))?;
    let entries = history.entries().iter();
    Ok(entries
        .map(|entry| (entry.timeline, entry.switch_lsn))
        .collect())
}
