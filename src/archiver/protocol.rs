//! What client and daemon say to each other, over a Unix socket, once per connection.
//!
//! The client sends `highwater 1 push\n`, the file's absolute path and the end of its side. The daemon sends a space now
//! and then while it works, and at last `<exit code>\n<what there is to say>`, and the end of its side.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The first line of a request.
const PUSH: &[u8] = b"highwater 1 push\n";
/// A path has at most 4096 bytes.
pub const LONGEST_REQUEST: u64 = 8 * 1024;
/// What there is to say is cut where it is longer.
pub const LONGEST_ANSWER: u64 = 8 * 1024;
/// A sign of life of a daemon that works.
pub const ALIVE: u8 = b' ';
/// How often it gives one.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// A daemon that gave none for so long has failed.
pub const SILENT: Duration = Duration::from_secs(60);

/// The request to push `path`.
pub fn request(path: &Path) -> Vec<u8> {
    [PUSH, path.as_os_str().as_bytes()].concat()
}

/// The path in a request. `None`: this is no request.
pub fn parse_request(bytes: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(PUSH)?));
    path.is_absolute().then(|| path.to_owned())
}

/// The answer with which the client ends as `code` says.
pub fn answer(code: u8, text: &str) -> Vec<u8> {
    let mut answer = format!("{code}\n{text}").into_bytes();
    answer.truncate(usize::try_from(LONGEST_ANSWER / 2).unwrap_or_default());
    answer
}

/// Exit code and text of an answer, without the signs of life before it. `None`: it is not a whole one.
pub fn parse_answer(bytes: &[u8]) -> Option<(u8, String)> {
    let text = String::from_utf8_lossy(bytes);
    let (code, text) = text
        .trim_start_matches(char::from(ALIVE))
        .split_once('\n')?;
    // Above 125 PostgreSQL's archiver would start anew.
    let code = code.parse().ok().filter(|code| *code <= 125)?;
    Some((code, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let path = Path::new("/var/lib/a b\n/pg_wal/000000010000000000000001");
        assert_eq!(parse_request(&request(path)).as_deref(), Some(path));
        assert_eq!(parse_request(&request(Path::new("pg_wal/x"))), None);
        assert_eq!(parse_request(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(
            parse_answer(&answer(10, "no\nno")),
            Some((10, "no\nno".into()))
        );
        assert_eq!(parse_answer(b"   0\n"), Some((0, String::new())));
        for half in [&b""[..], b"   ", b"0", b"1", b"200\n", b"\n", b"-1\n"] {
            assert_eq!(parse_answer(half), None, "{half:?}");
        }
        let long = answer(1, &"é".repeat(9000));
        assert!(long.len() as u64 <= LONGEST_ANSWER && parse_answer(&long).is_some());
    }
}
