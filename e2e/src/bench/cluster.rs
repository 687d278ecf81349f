//! A PostgreSQL of a benchmark's own. It refuses to run as root, so it runs as the user that its package made.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::scratch;

/// A cluster below a folder, reached by a socket in it without a password.
pub struct Cluster {
    programs: PathBuf,
    /// Its folder; PGDATA is `data` in it.
    pub root: PathBuf,
    /// Its socket's name has it, whether it listens there or not.
    pub port: u16,
}

impl Cluster {
    /// Nothing yet, in an empty folder that PostgreSQL can use.
    ///
    /// # Errors
    /// The file system's; there is no user `postgres`.
    pub fn new(programs: &Path, root: &Path, port: u16) -> Result<Self> {
        scratch::empty(root)?;
        let id = |option: &str| -> Result<u32> {
            Ok(scratch::output(Command::new("id").args([option, "postgres"]))?.parse()?)
        };
        chown(root, Some(id("-u")?), Some(id("-g")?))?;
        Ok(Self {
            programs: programs.to_owned(),
            root: root.to_owned(),
            port,
        })
    }

    /// Where one of PostgreSQL's programs is; a path stays what it is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// One of PostgreSQL's programs as the user that PostgreSQL wants, with what it must know to connect by the socket.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ]);
        command
            .arg(self.program(program))
            .current_dir(&self.root)
            .env("PGHOST", &self.root)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Runs one of them to its end, and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        scratch::output(self.command(program).args(arguments))
    }

    /// What psql prints for `text`.
    ///
    /// # Errors
    /// It fails.
    pub fn sql(&self, text: &str) -> Result<String> {
        self.run("psql", &["-qAtXc", text])
    }

    /// Makes it, with more `arguments` of initdb and with these settings.
    ///
    /// # Errors
    /// initdb's, the file system's.
    pub fn init(&self, arguments: &[&str], settings: &str) -> Result<()> {
        let fixed = ["-D", "data", "-U", "postgres", "-N", "--auth-local=trust"];
        self.run("initdb", &[&fixed[..], arguments].concat())?;
        self.configure(settings)
    }

    /// Gives it these settings in place of those that it was made with.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure(&self, settings: &str) -> Result<()> {
        let (socket, port) = (self.root.display(), self.port);
        let settings = format!(
            "listen_addresses = ''\nport = {port}\nunix_socket_directories = '{socket}'\n{settings}"
        );
        scratch::write(&self.root.join("data/postgresql.auto.conf"), settings)
    }

    /// Gives a file or folder to the user that it runs as.
    ///
    /// # Errors
    /// The file system's.
    pub fn hand_over(&self, path: &Path) -> Result<()> {
        let owner = fs::metadata(&self.root)?;
        chown(path, Some(owner.uid()), Some(owner.gid()))
            .with_context(|| format!("failed to give {} to PostgreSQL", path.display()))
    }

    /// Starts it, and waits until it takes connections.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self) -> Result<()> {
        self.run("pg_ctl", &["-D", "data", "-l", "log", "-w", "start"])
            .map(drop)
    }

    /// The process that started all others.
    ///
    /// # Errors
    /// It does not run.
    pub fn postmaster(&self) -> Result<u32> {
        let text = fs::read_to_string(self.root.join("data/postmaster.pid"))?;
        let process = text.lines().next().and_then(|line| line.parse().ok());
        process.context("no process in postmaster.pid")
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&self) -> Result<()> {
        self.run("pg_ctl", &["-D", "data", "-m", "fast", "-w", "stop"])
            .map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.root.join("data/postmaster.pid").exists() {
            let _ = self.run("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
        }
    }
}
