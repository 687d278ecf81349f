//! Highwater: fast physical backups, a WAL archive and point-in-time recovery for any PostgreSQL StatefulSet.
//!
//! | module | role |
//! |---|---|
//! | [`api`] | the contract: the kinds, their conditions, names and annotations. No client |
//! | [`postgres`] | what PostgreSQL is: LSNs, timelines, segments, WAL records, labels, control file |
//! | [`archive`] | what lies in object storage: layout, manifest, catalog, planning; stores, push, fetch |
//! | [`cli`], [`telemetry`] | arguments; logging |
//! | [`recurrence`] | when something comes again: cron in a time zone, or every so often |
//! | [`retry`] | the one retry policy |
//! | [`kubernetes`] | the calls that every program makes to the Kubernetes API in the same way |
//! | [`guarded`] | watches that one object cannot stop |
//! | [`csi`] | VolumeSnapshot types and what they say |
//! | [`controller`] | the Deployment that reconciles Highwater's kinds; talks to the Kubernetes API only |
//! | [`agent`] | one Deployment per protected database: backup session and WAL shipping |
//! | [`archiver`] | WAL in the database's own pod: `archive_command`, its daemon, `restore_command` |
//! | [`verify`] | `archive verify`: the archive read in full, a report, an exit code |
//! | [`planning`] | the planning pod: chooses the backup of a restore from the catalog in an archive alone |
//! | [`recovery`] | the recovery pod: makes a data directory right and lets PostgreSQL replay |
//!
//! Words: *cut* is the moment of a snapshot (`creationTime` is set), *ready* is `readyToUse`. A *lineage* is one unbroken
//! history of one cluster in an archive. An *attempt* is one try at a backup, with names of its own. A *member* is a pod
//! of the protected StatefulSet. The *tail* is the shipped part of a WAL segment that is not full yet.

pub mod agent;
pub mod api;
pub mod archive;
pub mod archiver;
pub mod buffers;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod csi;
pub mod guarded;
pub mod kubernetes;
pub mod planning;
pub mod postgres;
pub mod recovery;
pub mod recurrence;
pub mod retry;
pub mod telemetry;
pub mod verify;
