//! Makes kubelet's registration calls readable.
//!
//! Kubelet's plugin watcher sends the socket's path as `:authority`, which is not a valid authority
//! (kubernetes/kubernetes#109081); the `h2` crate refuses the request, as most HTTP/2 servers do. So
//! the header blocks that come in on the registration socket are rewritten before `h2` sees them.
//! All other frames, and all that goes out, pass untouched.

use std::io;

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, copy, duplex, split,
};
use tokio::net::UnixStream;

/// What a client sends before its first frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const BUFFER: usize = 64 << 10;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// The connection, as `h2` accepts it.
pub fn readable(client: UnixStream) -> DuplexStream {
    let (ours, theirs) = duplex(BUFFER);
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = split(ours);
        // Either side's end is the end of both.
        let ended = tokio::select! {
            ended = rewrite(&mut from_client, &mut to_server) => ended,
            ended = copy(&mut from_server, &mut to_client) => ended.map(|_| ()),
        };
        if let Err(error) = ended {
            tracing::debug!("a registration connection ended: {error}");
        }
    });
    theirs
}

async fn rewrite<R, W>(from: &mut R, to: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let mut blocks = Blocks::default();
    loop {
        let mut head = [0; 9];
        match from.read_exact(&mut head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload).await?;
        if kind == HEADERS {
            let payload = blocks.rewrite(flags, &payload)?;
            let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
            let [_, a, b, c] = length.to_be_bytes();
            let flags = END_HEADERS | (flags & END_STREAM);
            to.write_all(&[a, b, c, HEADERS, flags]).await?;
            to.write_all(&stream).await?;
            to.write_all(&payload).await?;
        } else {
            to.write_all(&head).await?;
            to.write_all(&payload).await?;
        }
        to.flush().await?;
    }
}

/// The header compression of one connection, read and written.
#[derive(Default)]
struct Blocks {
    decoder: loona_hpack::Decoder<'static>,
    encoder: loona_hpack::Encoder<'static>,
}

impl Blocks {
    /// The header block of a HEADERS frame, with a valid authority.
    fn rewrite(&mut self, flags: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
        let block = block(flags, payload).ok_or_else(|| {
            io::Error::other("a header block that is malformed or spread over several frames")
        })?;
        let mut headers = self
            .decoder
            .decode(block)
            .map_err(|e| io::Error::other(format!("failed to decode headers: {e:?}")))?;
        for (_, value) in headers.iter_mut().filter(|(name, _)| name == b":authority") {
            *value = b"localhost".to_vec();
        }
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
        Ok(self.encoder.encode(headers))
    }
}

/// The payload without padding and priority.
fn block(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & END_HEADERS == 0 {
        return None;
    }
    let mut block = payload;
    if flags & PADDED != 0 {
        let (&padding, rest) = block.split_first()?;
        block = rest.get(..rest.len().checked_sub(padding.into())?)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.extend(payload);
        frame
    }

    #[tokio::test]
    async fn the_authority_alone_changes() {
        let authority: &[u8] = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx.sock";
        let mut encoder = loona_hpack::Encoder::new();
        let mut request = |path: &'static [u8]| {
            let headers: [(&[u8], &[u8]); 3] = [
                (b":method", b"POST"),
                (b":authority", authority),
                (b":path", path),
            ];
            encoder.encode(headers)
        };
        let (first, second) = (request(b"/GetInfo"), request(b"/Notify"));
        let mut padded = vec![2];
        padded.extend([0; 5]);
        padded.extend(&second);
        padded.extend([0; 2]);
        let mut sent = vec![b'x'; PREFACE];
        sent.extend(frame(4, 0, b"settings"));
        sent.extend(frame(HEADERS, END_HEADERS, &first));
        sent.extend(frame(0, END_STREAM, b"data"));
        sent.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM | PADDED | PRIORITY,
            &padded,
        ));

        let mut got = Vec::new();
        rewrite(&mut sent.as_slice(), &mut got).await.unwrap();

        let mut decoder = loona_hpack::Decoder::new();
        let mut rest = got.strip_prefix([b'x'; PREFACE].as_slice()).unwrap();
        let mut next = |kind: u8, flags: u8| {
            let (head, tail) = rest.split_at(9);
            let (payload, tail) = tail.split_at(head[2].into());
            rest = tail;
            assert_eq!(head[3..], [kind, flags, 0, 0, 0, 1]);
            payload.to_vec()
        };
        assert_eq!(next(4, 0), b"settings");
        let headers = decoder.decode(&next(HEADERS, END_HEADERS)).unwrap();
        assert_eq!(headers[1], (b":authority".to_vec(), b"localhost".to_vec()));
        assert_eq!(headers[2], (b":path".to_vec(), b"/GetInfo".to_vec()));
        assert_eq!(next(0, END_STREAM), b"data");
        let headers = decoder
            .decode(&next(HEADERS, END_HEADERS | END_STREAM))
            .unwrap();
        assert_eq!(headers[1], (b":authority".to_vec(), b"localhost".to_vec()));
        assert_eq!(headers[2], (b":path".to_vec(), b"/Notify".to_vec()));
    }

    #[test]
    fn a_malformed_block_is_refused() {
        assert_eq!(block(0, b"x"), None);
        assert_eq!(block(END_HEADERS | PADDED, &[9, 0]), None);
        assert_eq!(block(END_HEADERS | PRIORITY, &[0; 4]), None);
    }
}
