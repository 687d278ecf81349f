//! `highwater archive verify` on archives of real WAL: sound ones pass, and each kind of damage is found by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod damage;
mod encrypted;
mod fixture;
mod histories;
mod live;
#[path = "../push/process.rs"]
#[allow(dead_code, reason = "shared with the tests of push")]
mod process;
#[allow(dead_code, reason = "shared with another test")]
#[path = "../programs/mod.rs"]
mod programs;
#[path = "../push/proxy.rs"]
#[allow(dead_code, reason = "shared with the tests of push")]
mod proxy;
mod replaced;
mod said;
#[path = "../store_contract/server.rs"]
#[allow(dead_code, reason = "shared with the store contract")]
mod server;
#[path = "../push/site.rs"]
#[allow(dead_code, reason = "shared with the tests of push")]
mod site;
mod sound;
mod stores;
