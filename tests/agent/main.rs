//! The agent's WAL shipper between a real PostgreSQL and a directory archive, without Kubernetes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first surprise"
)]

mod archives;
mod backlog;
#[allow(dead_code, reason = "shared with another test")]
#[path = "../postgres/database.rs"]
mod database;
mod failover;
#[allow(dead_code, reason = "shared with the store contract")]
#[path = "../store_contract/proxy.rs"]
mod gates;
#[allow(dead_code, reason = "shared with the store contract")]
#[path = "../store_contract/http.rs"]
mod http;
mod integrity;
mod killed;
mod limits;
mod outage;
#[allow(dead_code, reason = "shared with another test")]
#[path = "../push/process.rs"]
mod process;
#[allow(dead_code, reason = "shared with another test")]
#[path = "../push/proxy.rs"]
mod proxy;
mod recovery_point;
mod restored;
mod running;
#[allow(dead_code, reason = "shared with the store contract")]
#[path = "../store_contract/server.rs"]
mod server;
mod set_back;
mod ships;
#[allow(dead_code, reason = "shared with another test")]
#[path = "../push/site.rs"]
mod site;
mod slot_dropped;
mod speed;
mod streams;
mod synchronous;
mod transports;
mod two_agents;

use database::programs;
