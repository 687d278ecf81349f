//! What PostgreSQL is: positions, names, files and records, as types. Pure but for the session and what uses it:
//! [`session`], [`server`], [`headroom`], [`privileges`], [`slot`], [`archiver`], [`standby`], [`wal_reader`] and
//! [`backup_mode`].

pub mod archiver;
mod backup_label;
pub mod backup_mode;
mod control_file;
pub mod headroom;
mod lsn;
pub mod privileges;
pub mod replication;
mod segment;
pub mod server;
pub mod session;
pub mod slot;
pub mod standby;
mod system_identifier;
mod timeline;
mod timeline_history;
pub mod wal;
pub mod wal_reader;

pub use backup_label::{
    BackupFrom, BackupLabel, BackupLabelError, MappedTablespace, TablespaceMap, TablespaceMapError,
};
pub use control_file::{ClusterState, ControlFile, ControlFileError};
pub use lsn::{Lsn, LsnParseError};
pub use segment::{SegmentName, SegmentNameParseError, SegmentSize, SegmentSizeError};
pub use system_identifier::{SystemIdentifier, SystemIdentifierParseError};
pub use timeline::{TimelineId, TimelineParseError};
pub use timeline_history::{AncestryPart, HistoryEntry, HistoryError, TimelineHistory};
