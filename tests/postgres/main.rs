//! `highwater::postgres` against a real PostgreSQL, which must be installed: without it these tests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something fails"
)]

mod backup;
mod database;
mod headroom;
mod login;
mod pair;
mod records;
mod replication;
mod rights;
mod scan;
mod standby;
mod standby_torn;
mod statements;
mod timelines;
mod waldump;
