//! Which PostgreSQL the tests run: `POSTGRES_MAJOR`, 15 if it is not set; and as whom: it refuses to run as root.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

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

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command that runs as the user that PostgreSQL runs as.
pub fn as_postgres(program: impl AsRef<Path>) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ]);
        command.arg(program.as_ref());
        command
    } else {
        Command::new(program.as_ref())
    };
    command.env("LC_ALL", "C");
    command
}

/// Gives `path` to the user that PostgreSQL runs as.
pub fn hand_over(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if is_root() {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with("postgres:"));
        let fields: Vec<&str> = line.expect("the user postgres").split(':').collect();
        let id = |at: usize| fields[at].parse().unwrap();
        chown(path, Some(id(2)), Some(id(3))).unwrap();
    }
}
