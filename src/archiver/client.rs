//! The client of the daemon: as little as possible, as its start is most of what it costs. No runtime, no TLS, no parser
//! of arguments, no logging.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::protocol::{ALIVE, LONGEST_ANSWER, SILENT, parse_answer, request};
use crate::telemetry::say;

/// The daemon did not answer, and nobody else can push: PostgreSQL asks again.
const NO_ANSWER: u8 = 1;

/// A call of `wal push` with a socket.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    socket: PathBuf,
    /// Another way if the daemon is not there.
    config: bool,
    file: PathBuf,
}

/// If `arguments`, with the program's name, are those of a push through a socket, does it. `None`: they are not, or the
/// daemon is not there and the configuration allows another way.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let call = Call::parse(arguments)?;
    match ask(&call.socket, &call.file) {
        Ok((code, text)) => {
            if !text.is_empty() {
                say(&text);
            }
            Some(ExitCode::from(code))
        }
        Err(_) if call.config => None,
        Err(error) => {
            say(format_args!(
                "failed to reach the daemon at {}: {error}: start `highwater wal daemon`, or give --config too",
                call.socket.display()
            ));
            Some(ExitCode::from(NO_ANSWER))
        }
    }
}

impl Call {
    /// Whatever is not plainly such a call is left to the parser that explains what is wrong with it.
    fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut rest = arguments.iter().skip(1).map(OsString::as_os_str);
        if (rest.next()?, rest.next()?) != (OsStr::new("wal"), OsStr::new("push")) {
            return None;
        }
        let (mut socket, mut config, mut file) = (None, false, None);
        while let Some(argument) = rest.next() {
            match argument.to_str() {
                Some(option) if option.starts_with("--socket=") => {
                    socket = option.strip_prefix("--socket=").map(PathBuf::from);
                }
                Some(option) if option.starts_with("--config=") => config = true,
                Some("--socket") => socket = Some(PathBuf::from(rest.next()?)),
                Some("--config") => config = rest.next().is_some(),
                Some(option) if option.starts_with('-') => return None,
                Some(_) | None if file.is_some() => return None,
                Some(_) | None => file = Some(PathBuf::from(argument)),
            }
        }
        Some(Self {
            socket: socket?,
            config,
            file: file?,
        })
    }
}

fn ask(socket: &Path, file: &Path) -> io::Result<(u8, String)> {
    let path = std::env::current_dir()?.join(file);
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENT))?;
    stream.set_write_timeout(Some(SILENT))?;
    stream.write_all(&request(&path))?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let answer = read_answer(&mut stream)?;
    parse_answer(&answer).ok_or_else(|| io::Error::other("it ended without an answer"))
}

/// However long the daemon works, only the answer is kept.
fn read_answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let length = stream.read(&mut chunk)?;
        let read = chunk.get(..length).unwrap_or_default();
        if read.is_empty() || answer.len() as u64 > LONGEST_ANSWER {
            return Ok(answer);
        }
        let alive = match answer.is_empty() {
            true => read.iter().take_while(|byte| **byte == ALIVE).count(),
            false => 0,
        };
        answer.extend_from_slice(read.get(alive..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Call> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Call::parse(&arguments)
    }

    #[test]
    fn only_a_plain_push_through_a_socket_takes_the_short_way() {
        let call = |config| Call {
            socket: "/run/hw".into(),
            config,
            file: "pg_wal/1".into(),
        };
        assert_eq!(
            parsed("highwater wal push --socket /run/hw pg_wal/1"),
            Some(call(false))
        );
        assert_eq!(
            parsed("highwater wal push pg_wal/1 --config /etc/hw --socket /run/hw"),
            Some(call(true))
        );
        for other in [
            "highwater",
            "highwater wal push",
            "highwater wal push --config /etc/hw pg_wal/1",
            "highwater wal push --socket /run/hw",
            "highwater wal push --socket /run/hw pg_wal/1 pg_wal/2",
            "highwater wal push --socket /run/hw --help",
            "highwater wal fetch --socket /run/hw pg_wal/1",
        ] {
            assert_eq!(parsed(other), None, "{other}");
        }
    }

    #[test]
    fn signs_of_life_are_not_kept() {
        let endless = [vec![ALIVE; 100_000], b"0\nfine".to_vec()].concat();
        assert_eq!(read_answer(&mut &endless[..]).unwrap(), b"0\nfine");
        let flood = vec![b'x'; 1 << 20];
        assert!(read_answer(&mut &flood[..]).unwrap().len() < 10_000);
    }
}
