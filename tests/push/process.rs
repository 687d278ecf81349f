//! Processes of ours, what they say at their end, and the memory that they took.

use std::{
    fs,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use crate::server::SECRET;

/// A process of ours; killed when it is dropped.
pub struct Process(Option<Child>);

/// What a process said at its end.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub text: String,
}

impl Said {
    /// The exit code; a signal is none that a test expects.
    pub fn code(&self) -> i32 {
        assert_eq!(self.status.signal(), None, "{self:?}");
        self.status.code().unwrap()
    }

    #[track_caller]
    pub fn expect(&self, code: i32) -> &str {
        assert_eq!(self.code(), code, "{}", self.text);
        &self.text
    }
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(Some(command.stderr(Stdio::piped()).spawn().unwrap()))
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub fn runs(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        let child = self.0.as_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let id = self.id().to_string();
        assert!(Command::new("kill").arg(&id).status().unwrap().success());
    }

    /// Waits until it says `what`. What it has said so far is not said at its end.
    pub fn until_said(&mut self, what: &str) {
        let stderr = self.0.as_mut().unwrap().stderr.as_mut().unwrap();
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(what) {
            let mut byte = [0];
            let text = String::from_utf8_lossy(&said);
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{text}");
            said.extend(byte);
        }
    }

    pub fn wait(mut self) -> Said {
        let Output { status, stderr, .. } = self.0.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&stderr).into_owned();
        assert!(!text.contains(SECRET), "a secret in {text}");
        Said { status, text }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The most memory that a process has held, in bytes, without what is mapped from files: a test's program has many such pages,
/// and they can be read again. `status` is its file in `/proc`.
pub fn peak_memory(status: &Path) -> u64 {
    let status = fs::read_to_string(status).unwrap();
    let bytes = |what: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kibibytes: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kibibytes << 10
    };
    bytes("VmHWM:") - bytes("RssFile:")
}
