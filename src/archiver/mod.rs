//! WAL in the database's own pod: `archive_command` and `restore_command` for people who want them there, without any
//! controller.
//!
//! `highwater wal push` archives the file that PostgreSQL names and the finished segments after it; `highwater wal daemon`
//! does the same for a client that is as small as possible; `highwater wal fetch` is the other direction. PostgreSQL
//! calls the archive command again for whatever was not acknowledged, and after a crash for some that was: every push
//! may be repeated.

pub mod client;
mod cluster;
mod config;
mod daemon;
mod error;
pub mod fetch;
mod flights;
mod home;
mod name;
mod prepare;
mod protocol;
mod push;
mod pusher;
mod state;

pub use config::{Config, ConfigError};
pub use daemon::{Args as DaemonArgs, Error as DaemonError, run as run_daemon};
pub use error::PushFailure;
pub use push::{Args as PushArgs, run as run_push};
