//! A drill's own program: it runs in a container beside recovery, of an image that is the admin's.
//!
//! Recovery asks by a file in a directory that the container can only read, and `highwater check-program` there answers by one
//! in a directory that recovery can only read. Whatever lies in the second is the program's to write: it is read as such.

mod ask;
mod output;
mod program;

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::program::{Args, Error, run};
pub(super) use self::{
    ask::{Login, ask, password},
    output::last,
};
use super::files::{self, NewFile};

/// How often each side looks for the other's file.
const POLL: Duration = Duration::from_millis(200);
/// Bytes of a file that are read.
const LONGEST_FILE: u64 = 64 << 10;

const REQUEST: &str = "request.json";
const BEGUN: &str = "begun.json";
const ANSWER: &str = "answer.json";

/// Where the two meet.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Exchange {
    /// The directory that only recovery writes to.
    #[arg(
        id = "check_request",
        long = "check-request",
        default_value = "/highwater/check/request"
    )]
    pub request: PathBuf,
    /// The directory that only the program's container writes to.
    #[arg(
        id = "check_answer",
        long = "check-answer",
        default_value = "/highwater/check/answer"
    )]
    pub answer: PathBuf,
    /// Where the restored database listens for it: an address that containers of this pod alone reach.
    #[arg(
        id = "check_address",
        long = "check-address",
        default_value = "127.0.0.1"
    )]
    pub address: IpAddr,
}

/// What recovery asks for. Not to be printed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    /// Another one for each try.
    id: String,
    host: String,
    user: String,
    database: String,
    password: String,
    deadline_seconds: u64,
}

/// Which request was begun with.
#[derive(Serialize, Deserialize)]
struct Begun {
    id: String,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The request's.
    id: String,
    ended: Ended,
    /// The end of what it printed.
    output: String,
}

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ended {
    Exit {
        code: i32,
    },
    Signal {
        signal: i32,
    },
    /// It was killed past its deadline.
    Deadline,
    NotStarted {
        cause: String,
    },
    /// Its container was ended, and started anew.
    Interrupted,
}

impl Exchange {
    fn request(&self) -> Option<Request> {
        read(&self.request.join(REQUEST))
    }

    fn begun(&self) -> Option<Begun> {
        read(&self.answer.join(BEGUN))
    }

    fn answer(&self) -> Option<Answer> {
        read(&self.answer.join(ANSWER))
    }
}

/// `None`: not there, or nothing that can be understood. Neither a link nor a pipe is followed: who puts them there may be
/// another than who reads.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LONGEST_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whole or not at all, and readable by the other container's user.
fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(content)?;
    let new = NewFile::create(path)?;
    new.file().write_all(&text)?;
    new.file()
        .set_permissions(fs::Permissions::from_mode(0o444))?;
    new.keep()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_the_program_puts_there_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        write(&at("real"), &Begun { id: "a".into() }).unwrap();
        let found: Option<Begun> = read(&at("real"));
        assert_eq!(found.unwrap().id, "a");
        let mode = fs::metadata(at("real")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);

        symlink(at("real"), at("link")).unwrap();
        assert!(read::<Begun>(&at("link")).is_none());
        fs::create_dir(at("directory")).unwrap();
        assert!(read::<Begun>(&at("directory")).is_none());
        let pipe = at("pipe");
        rustix::fs::mknodat(
            CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(read::<Begun>(&pipe).is_none());
        fs::write(at("large"), vec![b' '; 1 << 20]).unwrap();
        assert!(read::<Begun>(&at("large")).is_none());
        assert!(read::<Begun>(&at("none")).is_none());
    }
}
