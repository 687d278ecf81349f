//! What PostgreSQL is: positions, names, files and records, as types. Pure but for the session and what uses it:
//! [`session`], [`server`], [`privileges`], [`slot`], [`wal_reader`] and [`backup_mode`].

pub mod backup_mode;
mod lsn;
pub mod privileges;
mod segment;
pub mod server;
pub mod session;
pub mod slot;
mod system_identifier;
mod timeline;
pub mod wal_reader;

pub use lsn::{Lsn, LsnParseError};
pub use segment::{SegmentName, SegmentNameParseError, SegmentSize, SegmentSizeError};
pub use system_identifier::{SystemIdentifier, SystemIdentifierParseError};
pub use timeline::{TimelineId, TimelineParseError};
