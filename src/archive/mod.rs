//! What lies in object storage, and how it gets there and back.

mod lineage;

pub use lineage::{LineageId, LineageParseError};
