//! The backup controller and the agent in this process, killed at each of their requests and statements and started again;
//! between them the API server with real snapshot sidecars, and a real PostgreSQL.
//! Run with `devcluster enter -- cargo test --workspace --test crash_sweep`, in a cluster without Highwater.
//!
//! A sample of the points, by a seed that is printed; all of them with `HIGHWATER_SWEEP`, one with
//! `HIGHWATER_POINT='agent-statement 17 before-answer at-once'`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "shared with another test")]
#[path = "backup_flow/agent.rs"]
mod agent;
#[path = "crash_sweep/archive.rs"]
mod archive;
#[path = "crash_sweep/controls.rs"]
mod controls;
#[path = "crash_sweep/crash.rs"]
mod crash;
#[allow(dead_code, reason = "shared with another test")]
#[path = "backup_flow/fixture.rs"]
mod fixture;
#[path = "crash_sweep/journal.rs"]
mod journal;
#[path = "crash_sweep/judge.rs"]
mod judge;
#[path = "crash_sweep/lanes.rs"]
mod lanes;
#[path = "crash_sweep/lease.rs"]
mod lease;
#[allow(dead_code, reason = "shared with another test")]
#[path = "backup_flow/oracle.rs"]
mod oracle;
#[path = "crash_sweep/point.rs"]
mod point;
#[path = "crash_sweep/programs.rs"]
mod programs;
#[path = "crash_sweep/restored.rs"]
mod restored;
#[path = "crash_sweep/site.rs"]
mod site;
#[path = "backup_flow/wait.rs"]
mod wait;

use anyhow::{Result, bail};

/// Of each thread.
const STACK: usize = 16 << 20;

/// The tests use one cluster, and this machine's cores.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Several programs at once on threads of their own, each as deep as an unoptimised build makes it.
fn run<F>(test: impl FnOnce() -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let told = move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().thread_stack_size(STACK).build()?;
        runtime.block_on(async {
            let _alone = ALONE.lock().await;
            test().await
        })
    };
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(told)?;
    thread.join().unwrap_or_else(|_| bail!("it panicked"))
}

#[test]
fn whoever_dies_anywhere_a_backup_completes_or_fails_and_leaves_nothing() -> Result<()> {
    run(lanes::sweep)
}
