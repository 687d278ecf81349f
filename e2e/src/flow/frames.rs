//! Messages of PostgreSQL's protocol, as far as a proxy must tell them apart.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest that a message may be; WAL comes in smaller ones.
const LONGEST: usize = 1 << 28;
/// The codes of requests for TLS and for GSSAPI, which are answered by one byte.
const NEGOTIATIONS: [[u8; 4]; 2] = [80_877_103_u32.to_be_bytes(), 80_877_104_u32.to_be_bytes()];

/// A message as it came, with the type before length and body. The first of a connection has none.
pub struct Frame {
    pub bytes: Vec<u8>,
    body: usize,
}

impl Frame {
    /// The first of a connection.
    pub async fn first(from: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        Self::rest(from, Vec::new()).await
    }

    /// Any other; `None` at the end.
    pub async fn next(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>> {
        let mut kind = [0];
        if from.read(&mut kind).await? == 0 {
            return Ok(None);
        }
        Self::rest(from, kind.to_vec()).await.map(Some)
    }

    async fn rest(from: &mut (impl AsyncRead + Unpin), mut bytes: Vec<u8>) -> Result<Self> {
        let length = from.read_u32().await?;
        bytes.extend(length.to_be_bytes());
        let (body, length) = (bytes.len(), usize::try_from(length)?);
        let rest = length.checked_sub(4).context("a length without itself")?;
        ensure!(rest < LONGEST, "a message of {rest} bytes");
        bytes.resize(body + rest, 0);
        from.read_exact(&mut bytes[body..]).await?;
        Ok(Self { bytes, body })
    }

    pub fn kind(&self) -> u8 {
        self.bytes[0]
    }

    pub fn is_negotiation(&self) -> bool {
        let code = self.bytes.get(self.body..self.body + 4);
        NEGOTIATIONS.iter().any(|it| code == Some(it))
    }

    /// The texts that the body begins with.
    fn texts(&self) -> impl Iterator<Item = String> {
        let texts = self.bytes[self.body..].split(|byte| *byte == 0);
        texts.map(|text| String::from_utf8_lossy(text).into_owned())
    }
}

/// What a client says, put together to statements: what the server answers as one.
#[derive(Default)]
pub struct Statements {
    prepared: HashMap<String, String>,
    bytes: Vec<u8>,
    text: String,
}

/// What becomes of a message.
pub enum Heard {
    /// It is no part of a statement.
    Aside(Vec<u8>),
    /// Its statement goes on.
    GoesOn,
    /// A whole statement, and its text.
    Whole(Vec<u8>, String),
}

impl Statements {
    /// Takes the next message.
    pub fn hear(&mut self, frame: Frame) -> Heard {
        let mut texts = frame.texts();
        let (first, second) = (texts.next(), texts.next().unwrap_or_default());
        let first = first.unwrap_or_default();
        drop(texts);
        match frame.kind() {
            b'Q' => self.text = first,
            b'P' => {
                self.text.clone_from(&second);
                self.prepared.insert(first, second);
            }
            b'B' => self.text = self.prepared.get(&second).cloned().unwrap_or_default(),
            b'D' | b'E' | b'C' | b'S' => {}
            _ => return Heard::Aside(frame.bytes),
        }
        let is_end = [b'Q', b'S'].contains(&frame.kind());
        self.bytes.extend(frame.bytes);
        match is_end {
            true => Heard::Whole(
                std::mem::take(&mut self.bytes),
                std::mem::take(&mut self.text),
            ),
            false => Heard::GoesOn,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    #[tokio::test]
    async fn a_prepared_statement_is_known_when_it_is_executed() {
        let sent = [
            message(b'P', b"s0\0SELECT 1\0\0\0"),
            message(b'S', b""),
            message(b'd', b"copied"),
            message(b'B', b"\0s0\0\0\0\0\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"SELECT 2\0"),
        ]
        .concat();
        let (mut from, mut statements) = (&sent[..], Statements::default());
        let (mut heard, mut bytes, mut aside) = (Vec::new(), Vec::new(), 0);
        while let Some(frame) = Frame::next(&mut from).await.unwrap() {
            match statements.hear(frame) {
                Heard::Aside(it) => {
                    aside += 1;
                    bytes.extend(it);
                }
                Heard::GoesOn => {}
                Heard::Whole(it, text) => {
                    bytes.extend(it);
                    heard.push(text);
                }
            }
        }
        assert_eq!(heard, ["SELECT 1", "SELECT 1", "SELECT 2"]);
        assert_eq!((aside, bytes), (1, sent));
    }

    #[tokio::test]
    async fn a_request_for_tls_is_no_statement() {
        let mut asked = &[0, 0, 0, 8, 4, 210, 22, 47][..];
        assert!(Frame::first(&mut asked).await.unwrap().is_negotiation());
        let mut startup = &[0, 0, 0, 9, 0, 3, 0, 0, 0][..];
        assert!(!Frame::first(&mut startup).await.unwrap().is_negotiation());
    }
}
