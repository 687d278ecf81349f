//! `archive_command`, its daemon and `restore_command` with a real PostgreSQL and a real S3 server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod daemon;
mod fetch;
mod files;
mod kills;
mod limits;
mod load;
mod measure;
mod order;
mod process;
#[path = "../programs/mod.rs"]
mod programs;
#[allow(dead_code, reason = "shared with another test")]
mod proxy;
mod refusals;
mod sample;
#[path = "../store_contract/server.rs"]
#[allow(dead_code, reason = "shared with the store contract")]
mod server;
mod site;
