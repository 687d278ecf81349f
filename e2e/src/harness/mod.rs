//! What scenarios and the demo share: deploying, fixtures, waiting, the ledger.
//!
//! Everything here reaches the cluster through its kubeconfig alone. Scenarios run inside the dev cluster's network, where
//! pods can be reached by address.

mod account;
pub mod audit;
pub mod bucket;
pub mod by_hand;
pub mod crash;
mod database;
mod deploy;
mod endpoints;
mod faults;
pub mod figures;
mod forward;
mod image;
pub mod integrity;
mod kubectl;
mod ledger;
pub mod leftovers;
pub mod marks;
pub mod measure;
pub mod members;
mod network_cut;
pub mod own_cluster;
pub mod postgres;
pub mod prey;
pub mod publish;
pub mod random;
pub mod requests;
pub mod secrets;
pub mod story;
mod wait;
mod watching;

pub use account::{Account, Request};
pub use database::{Database, PASSWORD, connect};
pub use deploy::{Deployment, Images, NAMESPACED, Namespaced, shipped};
pub use endpoints::EndpointWatch;
pub use faults::{Faults, snapshot_folder, volume_folder};
pub use forward::Forward;
pub use kubectl::{Kubectl, fill, kubeconfig};
pub use ledger::{Ledger, Lost, Writer};
pub use network_cut::NetworkCut;
pub use wait::{condition, gone, has, said, until, until_async};
pub use watching::Watching;
