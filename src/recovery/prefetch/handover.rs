//! How a segment gets from the server to PostgreSQL.
//!
//! `wal fetch` opens the file, sends its name and its descriptor, and waits for one byte. The server writes the segment
//! from its memory into the file in one go: no copy through the socket, and the file is made with the rights of the one
//! who asks.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt as _, Interest};

use crate::postgres::SegmentName;

/// The length of a segment's name.
const NAME: usize = 24;
/// The segment was written.
const WRITTEN: u8 = b'1';
/// It was not: ask the archive.
const NOT_HERE: u8 = b'0';

/// What a client asks for.
#[derive(Debug)]
pub struct Request {
    /// Which segment.
    pub name: SegmentName,
    /// Where to write it: empty, at its beginning.
    pub destination: File,
}

/// Lets the server at `socket` write the segment `name` into `destination`. `false`: it has none to give. If it does not
/// answer within `patience`, it may still write later.
///
/// # Errors
/// Nobody listens, or whoever does goes away or is silent.
pub fn request(
    socket: &Path,
    name: SegmentName,
    destination: &File,
    patience: Duration,
) -> io::Result<bool> {
    let mut server = UnixStream::connect(socket)?;
    server.set_read_timeout(Some(patience))?;
    server.set_write_timeout(Some(patience))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let descriptors = [destination.as_fd()];
    attached.push(SendAncillaryMessage::ScmRights(&descriptors));
    let name = name.to_string();
    let sent = sendmsg(
        &server,
        &[IoSlice::new(name.as_bytes())],
        &mut attached,
        SendFlags::NOSIGNAL,
    )?;
    if sent != NAME {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut answer = [0];
    server.read_exact(&mut answer)?;
    Ok(answer == [WRITTEN])
}

/// The server's side: what `client` asks for.
///
/// # Errors
/// It goes away, or speaks otherwise.
pub async fn receive(client: &tokio::net::UnixStream) -> io::Result<Request> {
    client
        .async_io(Interest::READABLE, || receive_now(client.as_fd()))
        .await
}

fn receive_now(client: impl AsFd) -> io::Result<Request> {
    let mut name = [0; NAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        client,
        &mut [IoSliceMut::new(&mut name)],
        &mut attached,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let name = str::from_utf8(name.get(..received.bytes).unwrap_or_default());
    let name = name.ok().and_then(|name| name.parse().ok());
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "no request of wal fetch");
    Ok(Request {
        name: name.ok_or_else(missing)?,
        destination: descriptor
            .map(|descriptor: OwnedFd| File::from(descriptor))
            .ok_or_else(missing)?,
    })
}

/// Writes `content` where the request wants it, and says so. `None`: says that there is none.
///
/// # Errors
/// The client is gone. A file that cannot be written is the client's to report: it is told that there is none.
pub async fn answer(
    client: &mut tokio::net::UnixStream,
    request: Request,
    content: Option<Vec<u8>>,
) -> io::Result<()> {
    let Some(content) = content else {
        return client.write_all(&[NOT_HERE]).await;
    };
    let mut file = request.destination;
    let write = move || (file.write_all(&content), content);
    let (written, content) = tokio::task::spawn_blocking(write).await?;
    let said = if written.is_ok() { WRITTEN } else { NOT_HERE };
    client.write_all(&[said]).await?;
    // Giving so much memory back takes its time, and PostgreSQL waits no longer.
    drop(content);
    Ok(())
}
