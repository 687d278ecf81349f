//! Recovery's side: asks, waits, and judges the answer.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Answer, Ended, Exchange, POLL, REQUEST, Request, files, last, output::without, write};
use crate::{
    api::{CheckName, VerifyProgram},
    recovery::checks::CheckError,
};

/// Beyond the program's deadline: to be seen, to be killed, or to start its container anew.
const GRACE: Duration = Duration::from_secs(60);

/// Who looks at what. Not to be printed.
pub struct Login<'a> {
    /// The role.
    pub user: &'a str,
    /// What it looks at.
    pub database: &'a str,
    /// Its password.
    pub password: &'a str,
}

/// A random text that nobody guesses.
///
/// # Errors
/// The system has none.
pub fn password() -> Result<String, CheckError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| not_carried_out(format!("failed to make a random password: {error}")))?;
    Ok(hex::encode(bytes))
}

/// Has the program look at the database, and waits for its end.
///
/// # Errors
/// It does not pass, or it could not be asked.
pub async fn ask(
    exchange: &Exchange,
    program: &VerifyProgram,
    login: &Login<'_>,
) -> Result<(), CheckError> {
    let deadline = program.deadline();
    let asked = Asked::put(exchange, deadline, login)?;
    let until = Instant::now() + deadline + GRACE;
    while Instant::now() < until {
        sleep(POLL).await;
        if let Some(answer) = exchange.answer().filter(|answer| answer.id == asked.id) {
            return judge(&answer, login.password, deadline);
        }
    }
    Err(not_carried_out(
        "its container did not answer: look at the container check of the recovery pod".to_owned(),
    ))
}

/// A request as long as somebody waits for the answer: what is taken back is ended.
struct Asked {
    id: String,
    path: PathBuf,
}

impl Asked {
    fn put(exchange: &Exchange, deadline: Duration, login: &Login<'_>) -> Result<Self, CheckError> {
        let request = Request {
            id: password()?,
            host: exchange.address.to_string(),
            user: login.user.to_owned(),
            database: login.database.to_owned(),
            password: login.password.to_owned(),
            deadline_seconds: deadline.as_secs(),
        };
        let path = exchange.request.join(REQUEST);
        write(&path, &request).map_err(|cause| {
            not_carried_out(format!("failed to write {}: {cause}", path.display()))
        })?;
        let id = request.id;
        Ok(Self { id, path })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::warn!(%error, "failed to take the request for the drill's program back");
        }
    }
}

fn not_carried_out(cause: String) -> CheckError {
    CheckError::NotCarriedOut {
        check: CheckName::Program,
        cause,
    }
}

/// The answer is whatever the program's container wrote.
fn judge(answer: &Answer, password: &str, deadline: Duration) -> Result<(), CheckError> {
    let said = |text: &str| last(&without(text, password));
    let output = match said(&answer.output) {
        output if output.is_empty() => "it printed nothing".to_owned(),
        output => format!("its last lines: {output}"),
    };
    match &answer.ended {
        Ended::Exit { code: 0 } => Ok(()),
        Ended::Exit { code } => Err(CheckError::Program {
            found: format!("it ended with exit code {code}; {output}"),
        }),
        Ended::Signal { signal } => Err(CheckError::Program {
            found: format!("it was ended by signal {signal}; {output}"),
        }),
        Ended::Deadline => Err(CheckError::ProgramDeadline {
            seconds: deadline.as_secs(),
            output,
        }),
        Ended::NotStarted { cause } => Err(not_carried_out(said(cause))),
        Ended::Interrupted => Err(not_carried_out(
            "its container was ended before it, as by a limit of memory in verify.program.resources"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_own_reason() {
        let judged = |ended: Ended, output: &str| {
            let answer = Answer {
                id: "1".to_owned(),
                ended,
                output: output.to_owned(),
            };
            let judged = judge(&answer, "the-password", Duration::from_secs(9));
            judged.map_err(|error| (error.reason(), error.to_string()))
        };
        let exit = |code| Ended::Exit { code };
        assert_eq!(judged(exit(0), "wrong"), Ok(()));
        let not_started = Ended::NotStarted {
            cause: "failed to run x: no such file".to_owned(),
        };
        for (ended, output, reason, said) in [
            (
                exit(3),
                "a\n\u{1b}b\n",
                "ProgramFailed",
                "exit code 3; its last lines: a; b",
            ),
            (
                exit(1),
                "",
                "ProgramFailed",
                "exit code 1; it printed nothing",
            ),
            (
                exit(1),
                "PGPASSWORD=the-password",
                "ProgramFailed",
                "lines: PGPASSWORD=***",
            ),
            (Ended::Signal { signal: 9 }, "", "ProgramFailed", "signal 9"),
            (
                Ended::Deadline,
                "slow",
                "ProgramDeadlineExceeded",
                "after 9 s; its last lines: slow",
            ),
            (not_started, "", "CheckNotCarriedOut", "no such file"),
            (Ended::Interrupted, "", "CheckNotCarriedOut", "memory"),
        ] {
            let (found, message) = judged(ended, output).unwrap_err();
            assert_eq!(found, reason);
            assert!(message.contains(said), "{message}");
        }
        // It is the program's to write.
        let long = judged(exit(1), &"x".repeat(1 << 16)).unwrap_err().1;
        assert!(long.len() < 2200, "{}", long.len());
    }
}
