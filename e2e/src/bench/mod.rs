//! What the benchmarks share: pgbench, files, processes and their costs, an S3 server, a PostgreSQL, peers, plots, marks.

pub mod cluster;
pub mod group;
pub mod peers;
pub mod pgbackrest;
pub mod pgbench;
pub mod plot;
pub mod scratch;
pub mod store;
pub mod verdict;
pub mod weight;
