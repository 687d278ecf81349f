//! What a drill looks at in the restored database: first while it answers, then when it was stopped.

use std::{path::Path, process::Output, time::Instant};

use tokio::process::Command;
use tokio_postgres::{error::SqlState, types::Type};

use super::{
    beside::{self, Exchange, Login, last},
    program::Programs,
    promoted,
    reader::{READER, Reader},
};
use crate::api::{CheckName, PassedCheck, Verify, VerifyCheck, VerifyProgram};

/// What pg_amcheck ends with where something is wrong with the data; any other code but 0 is trouble of its own.
const CORRUPTION: i32 = 2;

/// A check that was not passed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The data is not as it must be.
    #[error("the restored database does not pass the check {}: {found}", check.as_str())]
    Failed {
        /// Which.
        check: CheckName,
        /// What it said.
        found: String,
    },
    /// The drill's own program says no.
    #[error("the drill's program did not pass: {found}")]
    Program {
        /// How it ended, and what it printed.
        found: String,
    },
    /// It did not end.
    #[error(
        "the drill's program was killed after {seconds} s; {output}; verify.program.deadlineSeconds of a new PgRestore gives it longer"
    )]
    ProgramDeadline {
        /// Its deadline.
        seconds: u64,
        /// What it printed.
        output: String,
    },
    /// It says nothing about the data.
    #[error("the check {} could not be carried out: {cause}", check.as_str())]
    NotCarriedOut {
        /// Which.
        check: CheckName,
        /// Why.
        cause: String,
    },
}

impl CheckError {
    /// For the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "VerificationFailed",
            Self::Program { .. } => "ProgramFailed",
            Self::ProgramDeadline { .. } => "ProgramDeadlineExceeded",
            Self::NotCarriedOut { .. } => "CheckNotCarriedOut",
        }
    }
}

/// The restored database while it answers on a private socket.
pub struct Running<'a> {
    /// The image's programs.
    pub programs: &'a Programs,
    /// The directory of the socket.
    pub socket: &'a Path,
    /// A superuser.
    pub superuser: &'a str,
    /// The database that the agent connects to.
    pub database: &'a str,
    /// Where the drill's program is asked.
    pub exchange: &'a Exchange,
}

impl Running<'_> {
    /// The drill's statement, its program, and `pg_amcheck`.
    ///
    /// # Errors
    /// The first check that is not passed.
    pub async fn check(&self, verify: &Verify) -> Result<Vec<PassedCheck>, CheckError> {
        let mut passed = vec![PassedCheck {
            name: CheckName::Start,
            seconds: 0.0,
        }];
        if let Some(sql) = &verify.sql {
            passed.push(timed(CheckName::Sql, self.sql(sql)).await?);
        }
        if let Some(program) = &verify.program {
            passed.push(timed(CheckName::Program, self.program(program)).await?);
        }
        if verify.checks.contains(&VerifyCheck::Amcheck) {
            passed.push(timed(CheckName::Amcheck, self.amcheck()).await?);
        }
        Ok(passed)
    }

    async fn sql(&self, sql: &str) -> Result<(), CheckError> {
        let not_carried_out = |cause: String| CheckError::NotCarriedOut {
            check: CheckName::Sql,
            cause,
        };
        let failed = |found: String| CheckError::Failed {
            check: CheckName::Sql,
            found,
        };
        let reader = self.reader();
        let made = reader.make().await;
        made.map_err(|error| not_carried_out(error.to_string()))?;
        let reader = reader.connect().await;
        let reader = reader.map_err(|error| not_carried_out(error.to_string()))?;
        let rows = reader
            .query(sql, &[])
            .await
            .map_err(|error| match error.code() {
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) => not_carried_out(format!(
                    "{}: the role that asks may read the database's tables, views and sequences, and nothing else",
                    said(&error)
                )),
                _ => failed(said(&error)),
            })?;
        let is_wrong = |row: &tokio_postgres::Row| {
            let first = row.columns().first();
            let is_boolean = first.is_some_and(|column| *column.type_() == Type::BOOL);
            is_boolean && row.try_get::<_, Option<bool>>(0).ok().flatten() != Some(true)
        };
        match rows.iter().position(is_wrong) {
            Some(at) => Err(failed(format!(
                "row {} of {} is not true",
                at + 1,
                rows.len()
            ))),
            None => Ok(()),
        }
    }

    async fn program(&self, program: &VerifyProgram) -> Result<(), CheckError> {
        let not_carried_out = |cause: promoted::PromotedError| CheckError::NotCarriedOut {
            check: CheckName::Program,
            cause: cause.to_string(),
        };
        let reader = self.reader();
        reader.make().await.map_err(not_carried_out)?;
        let password = beside::password()?;
        reader.admit(&password).await.map_err(not_carried_out)?;
        let login = Login {
            user: READER,
            database: self.database,
            password: &password,
        };
        beside::ask(self.exchange, program, &login).await
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            socket: self.socket,
            superuser: self.superuser,
            database: self.database,
        }
    }

    /// The extension is made where it is missing: the copy is thrown away.
    async fn amcheck(&self) -> Result<(), CheckError> {
        let mut command = self.programs.command("pg_amcheck");
        command
            .args([
                "--all",
                "--install-missing",
                "--heapallindexed",
                "--no-password",
                "--port=5432",
            ])
            .arg(format!("--host={}", self.socket.display()))
            .arg(format!("--username={}", self.superuser))
            .arg(format!("--maintenance-db={}", self.database))
            .env("PGOPTIONS", promoted::OPTIONS);
        let output = run(CheckName::Amcheck, &mut command).await?;
        judge(
            CheckName::Amcheck,
            &output,
            output.status.code() == Some(CORRUPTION),
        )
    }
}

/// `pg_checksums`, when PostgreSQL was stopped in order.
///
/// # Errors
/// A checksum is wrong, or the cluster has none.
pub async fn stopped(
    programs: &Programs,
    pgdata: &Path,
    verify: &Verify,
) -> Result<Vec<PassedCheck>, CheckError> {
    if !verify.checks.contains(&VerifyCheck::Checksums) {
        return Ok(Vec::new());
    }
    let check = async {
        let mut command = programs.command("pg_checksums");
        let command = command.arg("--check").arg("-D").arg(pgdata);
        let output = run(CheckName::Checksums, command).await?;
        // It has one exit code for all; what it found it counts.
        let found = String::from_utf8_lossy(&output.stdout).contains("Bad checksums:");
        judge(CheckName::Checksums, &output, found)
    };
    Ok(vec![timed(CheckName::Checksums, check).await?])
}

async fn timed(
    name: CheckName,
    check: impl Future<Output = Result<(), CheckError>>,
) -> Result<PassedCheck, CheckError> {
    let started = Instant::now();
    check.await?;
    let seconds = started.elapsed().as_millis() as f64 / 1000.0;
    Ok(PassedCheck { name, seconds })
}

async fn run(check: CheckName, command: &mut Command) -> Result<Output, CheckError> {
    let output = command.kill_on_drop(true).output().await;
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    output.map_err(|cause| CheckError::NotCarriedOut {
        check,
        cause: format!("failed to run {program}: {cause}: the image must have it"),
    })
}

fn judge(check: CheckName, output: &Output, found: bool) -> Result<(), CheckError> {
    if output.status.success() {
        return Ok(());
    }
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let text = text.concat();
    let said = last(&text);
    Err(match found {
        true => CheckError::Failed { check, found: said },
        false => CheckError::NotCarriedOut {
            check,
            cause: format!("{}: {said}", output.status),
        },
    })
}

/// Without the detail, which may hold values of rows.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn corruption_is_told_from_trouble() {
        let output = |code: i32| Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: b"heap table is corrupt".to_vec(),
            stderr: b"\n".to_vec(),
        };
        let reason = |code: i32| {
            let judged = judge(CheckName::Amcheck, &output(code), code == CORRUPTION);
            judged.map_err(|error| error.reason())
        };
        assert_eq!(reason(0), Ok(()));
        assert_eq!(reason(CORRUPTION), Err("VerificationFailed"));
        assert_eq!(reason(1), Err("CheckNotCarriedOut"));
    }
}
