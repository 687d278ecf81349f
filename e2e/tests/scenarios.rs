//! User stories on the dev cluster: run with `devcluster enter -- cargo test -p highwater-e2e --test scenarios`.

#[path = "scenarios/ledger.rs"]
mod ledger;
#[path = "scenarios/setup.rs"]
mod setup;
