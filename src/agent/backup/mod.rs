//! The session of a backup: from `pg_backup_start` to the manifest.

mod catalogue;
mod driver;
mod plan;
mod session;
mod standby;
mod status;
mod work;

pub use driver::Driver;
pub use plan::is_open;
