//! What lies in object storage, and how it gets there and back. `docs/archive-format.md` describes every object.

mod backups;
mod codec;
mod contents;
mod error;
mod formats;
mod handle;
mod layout;
mod lineage;
pub mod plan;
pub mod store;
mod wal;
pub mod window;

pub use backups::{BACKUP_LABEL, MANIFEST, TABLESPACE_MAP};
pub use codec::{Codec, Encoder, sha256};
pub use contents::{Contents, Piece, Tail};
pub use error::{Fault, OpenError, ProbeError, PushError, ReadError};
pub use formats::{ClockPair, Identity, IndexEntry, Manifest, ManifestVolume, RestorePoint};
pub use handle::{Archive, Lineage, PushOutcome};
pub use layout::{FORMAT, Layout, TailName, backup_key};
pub use lineage::{LineageId, LineageParseError};
pub use plan::{Refusal, Request};
pub use store::MountedSecrets;
