//! The dev cluster and the end-to-end tests of Highwater.

pub mod bench;
pub mod devcluster;
pub mod flow;
pub mod harness;
