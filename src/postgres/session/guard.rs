//! A stream to a server that may not ask for the password itself.
//!
//! Whoever answers at the address can ask for a password in clear text, or for its MD5 hash, and the client would give it.
//! As the server's certificate is not verified, only SCRAM, which proves the password without telling it, may pass.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// The server asked for the password by a method that would tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server asks for {0}, which would tell it the password")]
pub(super) struct RefusedMethod(pub(super) &'static str);

/// Reads along with the server's messages until it says that the login is done.
pub(super) struct Guard<S> {
    inner: S,
    watch: Watch,
}

impl<S> Guard<S> {
    /// Around a socket on which the client asks for TLS first: the answer to that is one byte.
    pub(super) fn before_tls(inner: S) -> Self {
        let watch = Watch::TlsAnswer;
        Self { inner, watch }
    }

    /// Around a stream that speaks PostgreSQL's protocol from the start.
    pub(super) fn after_tls(inner: S) -> Self {
        let watch = Watch::Message(Head::default());
        Self { inner, watch }
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }
}

/// The first bytes of a message: its type, its length, and four bytes of its body.
#[derive(Default)]
struct Head {
    bytes: [u8; 9],
    filled: usize,
}

enum Watch {
    TlsAnswer,
    Message(Head),
    Skip(usize),
    LoggedIn,
}

impl Watch {
    /// Takes in the next byte that came from the server.
    fn step(self, byte: u8) -> Result<Self, RefusedMethod> {
        match self {
            Self::TlsAnswer => Ok(Self::Message(Head::default())),
            Self::LoggedIn => Ok(Self::LoggedIn),
            Self::Skip(1) => Ok(Self::Message(Head::default())),
            Self::Skip(left) => Ok(Self::Skip(left - 1)),
            Self::Message(mut head) => {
                head.bytes[head.filled] = byte;
                head.filled += 1;
                head.judge()
            }
        }
    }
}

impl Head {
    fn judge(self) -> Result<Watch, RefusedMethod> {
        let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = self.bytes;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let skip = |left: usize| match left {
            0 => Watch::Message(Head::default()),
            left => Watch::Skip(left),
        };
        match (self.filled, kind) {
            (..5, _) => Ok(Watch::Message(self)),
            (5, kind) if kind != b'R' => Ok(skip(length.saturating_sub(4))),
            (5..9, _) => Ok(Watch::Message(self)),
            _ => match u32::from_be_bytes([c0, c1, c2, c3]) {
                0 => Ok(Watch::LoggedIn),
                10..=12 => Ok(skip(length.saturating_sub(8))),
                3 => Err(RefusedMethod("the password in clear text")),
                5 => Err(RefusedMethod("the password's MD5 hash")),
                _ => Err(RefusedMethod("an authentication method other than SCRAM")),
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        for &byte in &buf.filled()[before..] {
            if matches!(self.watch, Watch::LoggedIn) {
                break;
            }
            match std::mem::replace(&mut self.watch, Watch::LoggedIn).step(byte) {
                Ok(watch) => self.watch = watch,
                Err(refused) => {
                    buf.set_filled(before);
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        refused,
                    )));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guard<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    async fn read(bytes: Vec<u8>, chunk: usize) -> io::Result<Vec<u8>> {
        let mut guard = Guard::before_tls(&bytes[..]);
        let mut seen = Vec::new();
        let mut buffer = vec![0; chunk];
        loop {
            match guard.read(&mut buffer).await? {
                0 => return Ok(seen),
                n => seen.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[tokio::test]
    async fn refuses_what_would_tell_the_password() {
        for (name, code, method) in [
            ("clear text", 3, "the password in clear text"),
            ("md5", 5, "the password's MD5 hash"),
            ("gss", 7, "an authentication method other than SCRAM"),
        ] {
            for chunk in [1, 3, 100] {
                let ask = message(b'R', &[0, 0, 0, code, 1, 2, 3, 4]);
                let bytes = [vec![b'N'], message(b'v', &[0; 8]), ask].concat();
                let error = read(bytes, chunk).await.unwrap_err();
                let refused = error.get_ref().and_then(|e| e.downcast_ref()).copied();
                assert_eq!(refused, Some(RefusedMethod(method)), "{name}, {chunk}");
            }
        }
    }

    #[tokio::test]
    async fn lets_scram_pass_and_everything_after_the_login() {
        let scram = message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0");
        let go_on = message(b'R', b"\0\0\0\x0Br=x");
        let done = message(b'R', &[0; 4]);
        let bytes = [vec![b'N'], scram, go_on, done, message(b'R', &[0, 0, 0, 3])].concat();
        for chunk in [1, 7, 100] {
            assert_eq!(read(bytes.clone(), chunk).await.unwrap(), bytes, "{chunk}");
        }
    }
}
