//! PostgreSQL's programs in the image that recovery runs on.

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::{
    controldata::{ControlData, ControlDataError},
    files::Owner,
};

/// Where images put PostgreSQL when it is not on the PATH.
const PLACES: [&str; 5] = [
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/opt/bitnami/postgresql/bin",
    "/usr/libexec/postgresql{major}",
    "/usr/local/pgsql/bin",
];

/// What is wrong with PostgreSQL's programs.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// None of this version.
    #[error("failed to find PostgreSQL {major} in this image: looked on the PATH and in {places}")]
    NotFound {
        /// The version wanted.
        major: i32,
        /// Where it was looked for.
        places: String,
    },
    /// A program could not be run.
    #[error("failed to run {program}: {cause}")]
    Run {
        /// Which.
        program: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// A program says no.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it printed.
        output: String,
    },
    /// Output of pg_controldata that cannot be read.
    #[error(transparent)]
    ControlData(#[from] ControlDataError),
}

/// PostgreSQL's programs, and as whom they are run.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
    owner: Option<Owner>,
}

impl Programs {
    /// Finds the programs of version `major`.
    ///
    /// # Errors
    /// Not in this image.
    pub async fn find(major: i32, owner: Option<Owner>) -> Result<Self, ProgramError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let places = PLACES.map(|place| place.replace("{major}", &major.to_string()));
        let candidates = places
            .iter()
            .map(PathBuf::from)
            .chain(env::split_paths(&path));
        for directory in candidates {
            // Distributions put links to single programs on the PATH; the rest lies beside the target.
            let Ok(postgres) = fs::canonicalize(directory.join("postgres")) else {
                continue;
            };
            let directory = postgres.parent().unwrap_or(Path::new("/")).to_owned();
            let programs = Self { directory, owner };
            if programs.major().await == Some(major) {
                return Ok(programs);
            }
        }
        Err(ProgramError::NotFound {
            major,
            places: places.join(", "),
        })
    }

    /// A command for one of the programs.
    pub fn command(&self, program: &str) -> Command {
        let mut command = std::process::Command::new(self.directory.join(program));
        command.env("LC_ALL", "C");
        if let Some(Owner { uid, gid }) = self.owner {
            // Without root's supplementary groups, too: std drops them with the user.
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").stdin(Stdio::null());
        Command::from(command)
    }

    /// What pg_control says.
    ///
    /// # Errors
    /// The program fails, or prints what cannot be read.
    pub async fn control_data(&self, pgdata: &Path) -> Result<ControlData, ProgramError> {
        let program = "pg_controldata";
        let mut command = self.command(program);
        let output = command.arg("-D").arg(pgdata).output().await;
        let output = output.map_err(|cause| ProgramError::Run { program, cause })?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ProgramError::Failed { program, output });
        }
        Ok(ControlData::parse(&String::from_utf8_lossy(
            &output.stdout,
        ))?)
    }

    async fn major(&self) -> Option<i32> {
        let output = self.command("postgres").arg("-V").output().await.ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        parse_version(&text)
    }
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(text: &str) -> Option<i32> {
    let version = text.split_once("PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit());
    version[..digits.unwrap_or(version.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, major) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 17", Some(17)),
            ("", None),
        ] {
            assert_eq!(parse_version(text), major, "{text}");
        }
    }
}
