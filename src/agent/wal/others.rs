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
        wal_reader::WalReadError,
    },
};

/// How long one member may take to give a segment of up to 1 GiB.
const EACH: Duration = Duration::from_secs(120);

/// A member beside the primary.
#[derive(Clone, Debug)]
pub struct Other {
    /// The pod.
    pub pod: String,
    /// How it is reached.
    pub options: ConnectOptions,
}

/// What the other members say of a segment.
#[derive(Debug)]
pub enum Found {
    /// It is whole and sound there.
    Whole(Bytes),
    /// Nobody has it.
    Nowhere,
    /// Nobody who answered has it, and not all did.
    Unknown,
}

/// A whole and sound segment `name` from one of `others`; the first that has it.
pub async fn segment(
    others: &[Other],
    name: SegmentName,
    size: SegmentSize,
    system_identifier: SystemIdentifier,
) -> Found {
    let mut all_answered = true;
    for Other { pod, options } in others {
        let asked = read(options, name, size, system_identifier);
        match tokio::time::timeout(EACH, asked).await {
            Ok(Ok(bytes)) => {
                tracing::warn!(%name, pod, "the primary has removed a WAL segment, another member still has it");
                return Found::Whole(bytes);
            }
            Ok(Err(Refused::HasNot(why))) => {
                tracing::info!(%name, pod, why, "this member does not have a WAL segment");
            }
            Ok(Err(Refused::NoAnswer(why))) => {
                all_answered = false;
                tracing::info!(%name, pod, why, "no answer about a WAL segment");
            }
            Err(_) => {
                all_answered = false;
                tracing::info!(%name, pod, "no answer about a WAL segment in time");
            }
        }
    }
    match all_answered {
        true => Found::Nowhere,
        false => Found::Unknown,
    }
}

/// No segment from a member.
enum Refused {
    HasNot(String),
    NoAnswer(String),
}

async fn read(
    options: &ConnectOptions,
    name: SegmentName,
    size: SegmentSize,
    system_identifier: SystemIdentifier,
) -> Result<Bytes, Refused> {
    let connected = connect(options).await;
    let client = connected.map_err(|error| Refused::NoAnswer(Chain(&error).to_string()))?;
    let mut buffer = Buffer::new(name);
    let filled = buffer.fill(&client, size, name.end(size)).await;
    filled.map_err(|error| {
        let why = Chain(&error).to_string();
        match error {
            WalReadError::Removed(_) | WalReadError::Recycled(..) => Refused::HasNot(why),
            WalReadError::Query(_) | WalReadError::InRecovery => Refused::NoAnswer(why),
        }
    })?;
    let bytes = buffer.into_bytes();
    let scanned = wal::scan(&bytes, name, size, Some(system_identifier), None);
    // A member that is behind has a file of that name too, and in it what it has not written yet.
    let scanned = scanned.map_err(|error| Refused::HasNot(error.to_string()))?;
    match scanned.end {
        ScanEnd::Full | ScanEnd::Switch => Ok(bytes),
        ScanEnd::Data | ScanEnd::Invalid { .. } => {
            Err(Refused::HasNot("it is not whole there".to_owned()))
        }
    }
}
