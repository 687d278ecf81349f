//! What PostgreSQL is: positions, names, files and records, as types. Pure but for the session and the readers.

mod lsn;
mod segment;
mod system_identifier;
mod timeline;

pub use lsn::{Lsn, LsnParseError};
pub use segment::{SegmentName, SegmentNameParseError, SegmentSize, SegmentSizeError};
pub use system_identifier::{SystemIdentifier, SystemIdentifierParseError};
pub use timeline::{TimelineId, TimelineParseError};
