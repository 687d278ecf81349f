//! An HTTP proxy before the store, that breaks what it is told to break.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    cluster,
    store::server::{KEY_ID, SECRET},
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// 404, NoSuchKey.
    NotFound,
    /// 403, AccessDenied.
    Denied,
    /// 500, InternalError.
    ServerError,
    /// No answer.
    Silence,
    /// RST.
    Reset,
    /// Half of the body.
    Truncated,
    /// Another segment that can be decompressed, with the archived one's metadata.
    OtherContent,
    /// The key id is one that the server does not know.
    OtherKeyId,
    /// The signature is another secret's.
    OtherSecret,
}

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Rule {
    /// In the path of the request that brings it about.
    needle: String,
    /// Whether all requests are broken from then on, or only those with `needle`.
    everything: bool,
    begun: bool,
    fault: Option<Fault>,
    action: Option<Action>,
}

pub struct Proxy {
    pub port: u16,
    rule: Arc<Mutex<Rule>>,
    broken: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (rule, broken) = <(Arc<Mutex<Rule>>, Arc<AtomicUsize>)>::default();
        let (rules, count) = (Arc::clone(&rule), Arc::clone(&broken));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (rules, count) = (Arc::clone(&rules), Arc::clone(&count));
                // The client sees what there is to see of an error.
                std::thread::spawn(move || drop(serve(client, upstream, &rules, &count)));
            }
        });
        Self { port, rule, broken }
    }

    /// Breaks every request for an object with `needle` in its key; with `everything`, every request after the first one.
    /// `action` is done first.
    pub fn break_at(&self, needle: &str, everything: bool, fault: Fault, action: Option<Action>) {
        *self.rule.lock().unwrap() = Rule {
            needle: needle.to_owned(),
            everything,
            begun: false,
            fault: Some(fault),
            action,
        };
    }

    pub fn mend(&self) {
        *self.rule.lock().unwrap() = Rule::default();
    }

    /// Requests that were broken.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }
}

impl Rule {
    fn meet(&mut self, head: &str) -> Option<Fault> {
        let fault = self.fault?;
        // What a list is asked for comes after the path.
        let path = head.split([' ', '?']).nth(1);
        let hit = path.is_some_and(|path| path.contains(&self.needle));
        if hit && let Some(action) = self.action.take() {
            action();
        }
        self.begun |= hit;
        (hit || self.everything && self.begun).then_some(fault)
    }
}

/// One request.
fn serve(
    mut client: TcpStream,
    upstream: u16,
    rule: &Mutex<Rule>,
    broken: &AtomicUsize,
) -> io::Result<()> {
    let head = head(&mut client)?;
    let met = rule.lock().unwrap().meet(&head);
    if met.is_some() {
        broken.fetch_add(1, Ordering::SeqCst);
    }
    match met.unwrap_or(Fault::None) {
        Fault::None => client.write_all(&forward(upstream, &head)?),
        Fault::NotFound => refuse(&mut client, "404 Not Found", "NoSuchKey"),
        Fault::Denied => refuse(&mut client, "403 Forbidden", "AccessDenied"),
        Fault::ServerError => refuse(&mut client, "500 Internal Server Error", "InternalError"),
        Fault::Silence => {
            // Until the client gives up.
            client.read(&mut [0]).map(drop)
        }
        Fault::Reset => socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)),
        Fault::Truncated => {
            let answer = forward(upstream, &head)?;
            client.write_all(&answer[..body(&answer).midpoint(answer.len())])
        }
        Fault::OtherContent => client.write_all(&other_content(&forward(upstream, &head)?)),
        Fault::OtherKeyId => {
            assert!(head.contains(KEY_ID));
            let head = head.replace(KEY_ID, "nobodys-key-id");
            client.write_all(&forward(upstream, &head)?)
        }
        Fault::OtherSecret => {
            assert!(!head.contains(SECRET));
            let (before, signature) = head.split_once("Signature=").unwrap();
            let other = if signature.starts_with('0') { "1" } else { "0" };
            let head = format!("{before}Signature={other}{}", &signature[1..]);
            client.write_all(&forward(upstream, &head)?)
        }
    }
}

/// Up to the empty line: requests to read have no body.
fn head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// The whole answer, after which the connection ends.
fn forward(upstream: u16, head: &str) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let head = head.trim_end();
    write!(server, "{head}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    server.shutdown(Shutdown::Both).ok();
    Ok(answer)
}

fn refuse(client: &mut TcpStream, status: &str, code: &str) -> io::Result<()> {
    let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Where the body begins.
fn body(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    end.unwrap() + 4
}

fn other_content(answer: &[u8]) -> Vec<u8> {
    let (head, body) = answer.split_at(body(answer));
    let head = str::from_utf8(head).unwrap();
    if !head.starts_with("HTTP/1.1 200") {
        return answer.to_vec();
    }
    let zeros = vec![0; usize::try_from(cluster::SIZE.get()).unwrap()];
    let other = zstd::bulk::compress(&zeros, 1).unwrap();
    assert_ne!(other, body);
    let lengths = |length: usize| format!("content-length: {length}\r\n");
    let lower = head.to_ascii_lowercase();
    assert!(lower.contains(&lengths(body.len())), "{head}");
    // Names of headers in small letters are the same names.
    let mut answer = lower
        .replace(&lengths(body.len()), &lengths(other.len()))
        .replace("http/1.1 200", "HTTP/1.1 200")
        .into_bytes();
    answer.extend(other);
    answer
}
