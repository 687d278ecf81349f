//! User stories on the dev cluster: run with `devcluster enter -- cargo test -p highwater-e2e --test scenarios`.

#[path = "scenarios/archives.rs"]
mod archives;
#[path = "scenarios/branches.rs"]
mod branches;
#[path = "scenarios/ceiling.rs"]
mod ceiling;
#[path = "scenarios/changes.rs"]
mod changes;
#[path = "scenarios/conflict.rs"]
mod conflict;
#[path = "scenarios/controls/mod.rs"]
mod controls;
#[path = "scenarios/copies.rs"]
mod copies;
#[path = "scenarios/doors.rs"]
mod doors;
#[path = "scenarios/drill.rs"]
mod drill;
#[path = "scenarios/elsewhere.rs"]
mod elsewhere;
#[path = "scenarios/encrypted.rs"]
mod encrypted;
#[path = "scenarios/failover.rs"]
mod failover;
#[path = "scenarios/granted.rs"]
mod granted;
#[path = "scenarios/in_place.rs"]
mod in_place;
#[path = "scenarios/into.rs"]
mod into;
#[path = "scenarios/kills.rs"]
mod kills;
#[path = "scenarios/lease.rs"]
mod lease;
#[path = "scenarios/ledger.rs"]
mod ledger;
#[path = "scenarios/majors.rs"]
mod majors;
#[path = "scenarios/matrix/mod.rs"]
mod matrix;
#[path = "scenarios/members.rs"]
mod members;
#[path = "scenarios/phases.rs"]
mod phases;
#[path = "scenarios/preflight.rs"]
mod preflight;
#[path = "scenarios/progress.rs"]
mod progress;
#[path = "scenarios/reach/mod.rs"]
mod reach;
#[path = "scenarios/retention.rs"]
mod retention;
#[path = "scenarios/rules.rs"]
mod rules;
#[path = "scenarios/schedules.rs"]
mod schedules;
#[path = "scenarios/session.rs"]
mod session;
#[path = "scenarios/setup.rs"]
mod setup;
#[path = "scenarios/standby.rs"]
mod standby;
#[path = "scenarios/synchronous.rs"]
mod synchronous;
#[path = "scenarios/targets.rs"]
mod targets;
#[path = "scenarios/volumes.rs"]
mod volumes;
