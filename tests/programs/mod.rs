//! Which PostgreSQL the tests run: `POSTGRES_MAJOR`, 15 if it is not set; and as whom: it refuses to run as root.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The major version that the tests run.
pub fn major() -> u32 {
    let major = env::var("POSTGRES_MAJOR");
    major.map_or(15, |major| major.parse().unwrap())
}

/// Where PostgreSQL's programs are.
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(directory).join(name)
}

/// As the product finds them: where Debian puts them, or on the PATH.
fn directory() -> PathBuf {
    let major = major();
    let path = env::var_os("PATH").unwrap_or_default();
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let is_right = |directory: &PathBuf| {
        let version = Command::new(directory.join("postgres")).arg("-V").output();
        let start = format!("postgres (PostgreSQL) {major}.");
        version.is_ok_and(|version| version.stdout.starts_with(start.as_bytes()))
    };
    std::iter::once(debian)
        .chain(env::split_paths(&path))
        .find(is_right)
        .unwrap_or_else(|| {
            panic!("found no PostgreSQL {major}: put what `scripts/majors bin {major}` says on the PATH")
        })
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
