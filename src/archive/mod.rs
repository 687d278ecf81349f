//! What lies in object storage, and how it gets there and back. `docs/archive-format.md` describes every object.

mod backups;
mod codec;
mod contents;
mod encryption;
mod ended;
mod error;
#[cfg(test)]
pub(crate) mod examples;
mod expire;
mod fetch;
mod formats;
mod handle;
mod layout;
mod lineage;
mod lineages;
mod listing;
mod memory;
mod objects;
mod on_their_way;
mod patience;
mod pieces;
pub mod plan;
mod probe;
mod push;
mod read;
pub mod retention;
mod rollup;
#[cfg(test)]
mod sketches;
pub mod store;
mod tails;
pub mod verify;
pub mod window;

pub use backups::{BACKUP_LABEL, MANIFEST, TABLESPACE_MAP, TOMBSTONE, Tombstone};
pub use codec::{Codec, Encoder, Encoding, sha256};
pub use contents::{Contents, LogEnd, Records, Segment, Tail, end_of_log};
pub use encryption::Identities;
pub use error::{Fault, OpenError, ProbeError, PushError, ReadError};
pub(crate) use error::{KEY_MISSING, KEY_WRONG};
pub use expire::{Deleted, Doomed};
pub use formats::{ClockPair, Identity, IndexEntry, Manifest, ManifestVolume, RestorePoint};
pub use handle::{Archive, Lineage, PushOutcome};
pub use layout::{FORMAT, Layout, TailName, backup_key};
pub use lineage::{LineageId, LineageParseError};
pub use on_their_way::YOUNG;
pub use patience::Patience;
pub use pieces::Piece;
pub use plan::{Ended, Refusal, Request};
pub use probe::{Findings, SKEW_TO_WARN_OF};
pub use push::{MOST_TAILS, SegmentEncoded, SegmentPut};
pub use rollup::GROUP;
pub use store::MountedSecrets;
