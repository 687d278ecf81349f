//! As much of HTTP/1.1 as a proxy between a client and a test's server needs: one request per connection.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request or an answer: the first line, the headers, the body.
#[derive(Clone, Debug)]
pub struct Message {
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn new(first: &str, body: &str) -> Self {
        Self {
            first: first.to_owned(),
            headers: vec![("Content-Type".to_owned(), "application/xml".to_owned())],
            body: body.as_bytes().to_vec(),
        }
    }

    /// The request's method, the answer's protocol.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// The request's target, the answer's status.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Sets a header, and drops what it was before.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
    }

    /// As it goes over the wire. An answer's body is as the server framed it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.first).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next()?.to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        let message = Self {
            first,
            headers: lines.filter_map(header).collect(),
            body: bytes[end + 4..].to_vec(),
        };
        Some((message, end + 4))
    }
}

/// Reads a whole request, body and all.
pub async fn read_request(stream: &mut TcpStream) -> io::Result<Message> {
    let mut bytes = Vec::new();
    loop {
        if let Some((message, head)) = Message::parse(&bytes) {
            let length = message.header("content-length");
            let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            bytes.reserve(length);
            while bytes.len() < head + length {
                more(stream, &mut bytes).await?;
            }
            let body = bytes[head..head + length].to_vec();
            return Ok(Message { body, ..message });
        }
        more(stream, &mut bytes).await?;
    }
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Asks the server at `port`, and reads its whole answer. It may answer before it has read all of the request, and close
/// the connection then.
pub async fn exchange(port: u16, mut request: Message) -> io::Result<Message> {
    request.set("Connection", "close");
    request.set("Content-Length", request.body.len().to_string());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut from, mut to) = stream.split();
    let (request, mut bytes) = (request.bytes(), Vec::new());
    let (_, read) = tokio::join!(to.write_all(&request), from.read_to_end(&mut bytes));
    let (mut answer, _) = Message::parse(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    let length = answer.header("content-length");
    let length = length.and_then(|length| length.parse().ok());
    if length != Some(answer.body.len()) {
        read?;
    }
    answer.set("Connection", "close");
    Ok(answer)
}

/// Answers, and closes the connection.
pub async fn answer(mut stream: TcpStream, mut answer: Message) -> io::Result<()> {
    answer.set("Connection", "close");
    let framed = ["content-length", "transfer-encoding"];
    if framed.iter().all(|name| answer.header(name).is_none()) {
        answer.set("Content-Length", answer.body.len().to_string());
    }
    stream.write_all(&answer.bytes()).await?;
    stream.shutdown().await
}

/// Ends the connection so that the client sees a reset, not an end.
pub fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}
