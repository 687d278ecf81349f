//! What the benchmarks share: pgbench, files, processes and their costs, an S3 server, a PostgreSQL, marks.

pub mod cluster;
pub mod group;
pub mod pgbench;
pub mod scratch;
pub mod store;
pub mod verdict;
pub mod weight;
