//! What the primary has removed, another member may still have: an old primary, or a standby.

use std::time::Duration;

use bytes::Bytes;

use super::buffer::Buffer;
use crate::{
    controller::context::Chain,
    postgres::{
        SegmentName, SegmentSize, SystemIdentifier,
        session::{ConnectOptions, connect},
        wal::{self, ScanEnd},
    },
};

/// How long one member may take to give a segment.
const EACH: Duration = Duration::from_secs(30);

/// A member beside the primary.
#[derive(Clone, Debug)]
pub struct Other {
    /// The pod.
    pub pod: String,
    /// How it is reached.
    pub options: ConnectOptions,
}

/// A whole and sound segment `name` from one of `others`; the first that has it.
pub async fn segment(
    others: &[Other],
    name: SegmentName,
    size: SegmentSize,
    system_identifier: SystemIdentifier,
) -> Option<Bytes> {
    for Other { pod, options } in others {
        let asked = read(options, name, size, system_identifier);
        match tokio::time::timeout(EACH, asked).await {
            Ok(Ok(bytes)) => {
                tracing::warn!(%name, pod, "the primary has removed a WAL segment, another member still has it");
                return Some(bytes);
            }
            Ok(Err(why)) => tracing::info!(%name, pod, why, "no WAL segment from this member"),
            Err(_) => tracing::info!(%name, pod, "no answer about a WAL segment"),
        }
    }
    None
}

async fn read(
    options: &ConnectOptions,
    name: SegmentName,
    size: SegmentSize,
    system_identifier: SystemIdentifier,
) -> Result<Bytes, String> {
    let client = connect(options).await.map_err(|e| Chain(&e).to_string())?;
    let mut buffer = Buffer::new(name);
    let filled = buffer.fill(&client, size, name.end(size)).await;
    filled.map_err(|error| Chain(&error).to_string())?;
    let bytes = buffer.into_bytes();
    let scanned = wal::scan(&bytes, name, size, Some(system_identifier), None);
    // A member that is behind has a file of that name too, and in it what it has not written yet.
    match scanned.map_err(|error| error.to_string())?.end {
        ScanEnd::Full | ScanEnd::Switch => Ok(bytes),
        ScanEnd::Data | ScanEnd::Invalid { .. } => Err("it is not whole there".to_owned()),
    }
}
