//! A CSI driver for tests: volumes are btrfs subvolumes, snapshots are copy-on-write and atomic,
//! and a control file makes single requests misbehave in the ways real drivers do.
//!
//! Capacities are recorded and reported but not enforced: no quota is set on a subvolume, as btrfs
//! quota groups cost far more than the tests gain from them. Volumes are file systems, never blocks.
//!
//! - [`pool`]: subvolumes, snapshots and their records on disk
//! - [`snapshots`]: how one is taken, told of and deleted; [`faults`]: what may go wrong with it
//! - [`identity`], [`controller`], [`group`], [`node`]: the CSI services
//! - [`registration`], [`authority`]: kubelet's plugin registration, so that no registrar is needed
//! - [`server`]: the sockets and the life of the process

pub mod authority;
pub mod clock;
pub mod controller;
pub mod faults;
pub mod group;
pub mod identity;
pub mod mount;
pub mod node;
pub mod pool;
pub mod proto;
pub mod registration;
pub mod server;
pub mod snapshots;
pub mod validate;
