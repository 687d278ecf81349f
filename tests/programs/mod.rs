//! Which PostgreSQL the tests run: `POSTGRES_MAJOR`, 15 if it is not set.

use std::path::PathBuf;

/// Where PostgreSQL's programs are.
pub fn program(name: &str) -> PathBuf {
    let major = std::env::var("POSTGRES_MAJOR").unwrap_or_else(|_| "15".into());
    let path = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/{name}"));
    assert!(
        path.exists(),
        "{} is missing: install postgresql-{major}",
        path.display()
    );
    path
}
