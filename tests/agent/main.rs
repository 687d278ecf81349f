//! The agent's WAL shipper between a real PostgreSQL and a directory archive, without Kubernetes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

#[allow(dead_code, reason = "shared with another test")]
#[path = "../postgres/database.rs"]
mod database;
mod integrity;
mod killed;
mod running;
mod ships;
mod streams;
mod synchronous;
mod transports;
