//! How a segment gets from the server to PostgreSQL.
//!
//! `wal fetch` opens files, sends their descriptors with the segment's name, and waits for one byte and the descriptor of the
//! file that holds the segment. So nothing goes through the socket, and each file is made with the rights of the one who asks.
//! Where the file system has files without a name, it sends some more than it needs: the server writes the segments that come
//! next while PostgreSQL replays, and all that is left to do when they are asked for is to give them their name.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;

use crate::postgres::SegmentName;

/// The length of a segment's name.
const NAME: usize = 24;
/// After the name: one file with a name follows.
const NAMED: u8 = b'n';
/// After the name: files without a name follow.
const UNNAMED: u8 = b'u';
/// The segment was written.
const WRITTEN: u8 = b'1';
/// It was not: ask the archive.
const NOT_HERE: u8 = b'0';
/// The most files in one message.
const MOST_FILES: usize = 4;

/// Files that a client lets the server write to, empty.
#[derive(Debug)]
pub enum Files {
    /// For the segment that is asked for alone.
    Named(File),
    /// For that and those that come next, at most four.
    Unnamed(Vec<File>),
}

/// What a client asks for.
#[derive(Debug)]
pub struct Request {
    /// Which segment.
    pub name: SegmentName,
    /// Where to write it.
    pub file: File,
    /// That has a name: the client takes no other.
    pub named: bool,
    /// For segments that come next.
    pub later: Vec<File>,
}

/// A segment that a client is given.
#[derive(Debug)]
pub enum Given {
    /// It is in the file with a name that the client sent.
    There,
    /// It is in this one, which has none.
    In(File),
}

/// Asks the server at `socket` for the segment `name`. `None`: it has none to give. If it does not answer within `patience`, it
/// may still write later.
///
/// # Errors
/// Nobody listens, or whoever does goes away or is silent.
pub fn request(
    socket: &Path,
    name: SegmentName,
    files: &Files,
    patience: Duration,
) -> io::Result<Option<Given>> {
    let server = UnixStream::connect(socket)?;
    server.set_read_timeout(Some(patience))?;
    server.set_write_timeout(Some(patience))?;
    let (kind, descriptors) = match files {
        Files::Named(file) => (NAMED, vec![file.as_fd()]),
        Files::Unnamed(files) => (UNNAMED, files.iter().map(AsFd::as_fd).collect()),
    };
    let mut text = name.to_string().into_bytes();
    text.push(kind);
    send(&server, &text, &descriptors)?;
    let mut answer = [0];
    let (length, mut given) = receive_now(&server, &mut answer)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if answer != [WRITTEN] {
        return Ok(None);
    }
    match (given.pop(), files) {
        (Some(file), _) => Ok(Some(Given::In(file))),
        (None, Files::Named(_)) => Ok(Some(Given::There)),
        (None, Files::Unnamed(_)) => Err(no("answer")),
    }
}

/// The server's side: what `client` asks for.
///
/// # Errors
/// It goes away, or speaks otherwise.
pub async fn receive(client: &tokio::net::UnixStream) -> io::Result<Request> {
    let mut text = [0; NAME + 1];
    let received = || receive_now(client.as_fd(), &mut text);
    let (length, mut later) = client.async_io(Interest::READABLE, received).await?;
    let [name @ .., kind] = &text;
    let name = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let named = match *kind {
        _ if length != text.len() => return Err(no("request")),
        NAMED => true,
        UNNAMED => false,
        _ => return Err(no("request")),
    };
    Ok(Request {
        name: name.ok_or_else(|| no("request"))?,
        file: later.pop().ok_or_else(|| no("request"))?,
        named,
        later,
    })
}

/// The server's side: answers `client`. `None`: there is no such segment to give.
///
/// # Errors
/// The client is gone.
pub async fn answer(client: &tokio::net::UnixStream, given: Option<Given>) -> io::Result<()> {
    let (said, file) = match given {
        None => (NOT_HERE, None),
        Some(Given::There) => (WRITTEN, None),
        Some(Given::In(file)) => (WRITTEN, Some(file)),
    };
    let descriptors: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    let answer = || send(client.as_fd(), &[said], &descriptors);
    client.async_io(Interest::WRITABLE, answer).await
}

fn send(to: impl AsFd, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !attached.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many files",
        ));
    }
    let text = [IoSlice::new(text)];
    let sent = sendmsg(to, &text, &mut attached, SendFlags::NOSIGNAL)?;
    match sent == text[0].len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// How many bytes came, and the files with them.
pub(in crate::recovery) fn receive_now(
    from: impl AsFd,
    text: &mut [u8],
) -> io::Result<(usize, Vec<File>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let mut text = [IoSliceMut::new(text)];
    let received = recvmsg(from, &mut text, &mut attached, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    Ok((received.bytes, files))
}

fn no(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no {what} of wal fetch"),
    )
}
