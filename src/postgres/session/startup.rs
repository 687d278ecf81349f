//! A stream that asks for replication when the session starts, and that comes back when its user is done with it.
//!
//! The client library knows how to log in, and explains what goes wrong; it does not know replication. So it logs in through
//! this, which adds one parameter to the startup message (PostgreSQL manual, "Streaming Replication Protocol"), and when the
//! library lets go of the stream, it is handed to who speaks the rest.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// The version in a startup message: 3.0. Other first messages ask for TLS.
const PROTOCOL: u32 = 0x0003_0000;
/// Physical replication, as the body of a startup message has it, with the end of its list.
const REPLICATION: &[u8] = b"replication\0true\0\0";

/// What is left of the stream after the login.
pub(in crate::postgres) type Stream = Box<dyn Transport>;

/// A stream to the server, whatever is around it.
pub(in crate::postgres) trait Transport:
    AsyncRead + AsyncWrite + Unpin + Send + 'static
{
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for S {}

/// See the module.
pub(super) struct Startup<S: Transport> {
    /// `None` once it is given back.
    inner: Option<S>,
    back: Option<oneshot::Sender<Stream>>,
    /// What is still to be written of the startup message in its longer form.
    asking: Option<Bytes>,
}

impl<S: Transport> Startup<S> {
    /// The receiver gets the stream when this is dropped.
    pub(super) fn new(inner: S) -> (Self, oneshot::Receiver<Stream>) {
        let (back, stream) = oneshot::channel();
        let startup = Self {
            inner: Some(inner),
            back: Some(back),
            asking: None,
        };
        (startup, stream)
    }

    /// The same around what `wrap` makes of the stream inside, as TLS does.
    pub(super) async fn inside<T, F>(mut self, wrap: impl FnOnce(S) -> F) -> io::Result<Startup<T>>
    where
        T: Transport,
        F: Future<Output = io::Result<T>>,
    {
        let inner = self.inner.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Startup {
            inner: Some(wrap(inner).await?),
            back: self.back.take(),
            asking: None,
        })
    }

    fn inner(&mut self) -> io::Result<Pin<&mut S>> {
        inner(&mut self.inner)
    }
}

fn inner<S: Transport>(inner: &mut Option<S>) -> io::Result<Pin<&mut S>> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    inner.as_mut().map(Pin::new).ok_or_else(gone)
}

impl<S: Transport> Drop for Startup<S> {
    fn drop(&mut self) {
        if let Some((inner, back)) = self.inner.take().zip(self.back.take()) {
            // Nobody waits for it: then it is closed here.
            let _ = back.send(Box::new(inner));
        }
    }
}

/// The startup message with the request for replication; `None` if these bytes are something else.
fn asking_for_replication(message: &[u8]) -> Option<Bytes> {
    let mut head = message;
    let length = head.try_get_u32().ok()?;
    if usize::try_from(length).ok()? != message.len() || head.try_get_u32().ok()? != PROTOCOL {
        return None;
    }
    // What ends the list of parameters goes after ours.
    let parameters = head.strip_suffix(&[0])?;
    let longer = length + u32::try_from(REPLICATION.len() - 1).ok()?;
    let mut asking = BytesMut::new();
    asking.put_u32(longer);
    asking.put_u32(PROTOCOL);
    asking.put_slice(parameters);
    asking.put_slice(REPLICATION);
    Some(asking.freeze())
}

impl<S: Transport> AsyncRead for Startup<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner()?.poll_read(cx, buf)
    }
}

impl<S: Transport> AsyncWrite for Startup<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.asking.is_none() {
            this.asking = asking_for_replication(buf);
        }
        let Some(asking) = &mut this.asking else {
            return this.inner()?.poll_write(cx, buf);
        };
        while asking.has_remaining() {
            let written = ready!(inner(&mut this.inner)?.poll_write(cx, asking))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            asking.advance(written);
        }
        // All that the caller gave is in it.
        this.asking = None;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

impl<S: Transport + TlsStream> TlsStream for Startup<S> {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.inner {
            Some(inner) => inner.channel_binding(),
            None => ChannelBinding::none(),
        }
    }
}
