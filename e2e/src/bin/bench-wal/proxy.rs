//! A delay before each answer of the store: once per request, however many packets it has.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{Builder, Runtime},
};

const BUFFER: usize = 256 << 10;
/// "Go on with the body" is no answer yet: the request's own delay is still to come.
const GO_ON: &[u8] = b"HTTP/1.1 100";

/// Forwards until it is dropped.
pub struct Proxy {
    /// Where it listens, on loopback.
    pub port: u16,
    _runtime: Runtime,
}

impl Proxy {
    /// Before the server at the loopback port `to`.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(to: u16, delay: Duration) -> Result<Self> {
        // One thread: it does not compute, and tool and store want the cores.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the tool's to notice.
                tokio::spawn(async move { drop(connection(client, to, delay).await) });
            }
        });
        Ok(Self {
            port,
            _runtime: runtime,
        })
    }
}

async fn connection(client: TcpStream, to: u16, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whether a request was sent whose answer has not begun.
    let asked = AtomicBool::new(false);
    tokio::try_join!(
        requests(from_client, to_server, &asked),
        answers(from_server, to_client, &asked, delay),
    )?;
    Ok(())
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: &AtomicBool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        asked.store(true, Ordering::Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: &AtomicBool,
    delay: Duration,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        if !buffer[..read].starts_with(GO_ON) && asked.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::Proxy;

    const DELAY: Duration = Duration::from_millis(40);

    /// Answers each request of 4 bytes with `HTTP/1.1 100`, and after 4 more with 1 MiB.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            while client.read_exact(&mut request).is_ok() {
                client.write_all(b"HTTP/1.1 100").unwrap();
                client.read_exact(&mut request).unwrap();
                client.write_all(&vec![b'x'; 1 << 20]).unwrap();
            }
        });
        port
    }

    #[test]
    fn each_request_waits_once_on_a_connection_that_is_kept() {
        let proxy = Proxy::start(server(), DELAY).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        for _ in 0..2 {
            let begin = Instant::now();
            client.write_all(b"head").unwrap();
            let mut go_on = [0; 12];
            client.read_exact(&mut go_on).unwrap();
            client.write_all(b"body").unwrap();
            client.read_exact(&mut vec![0; 1 << 20]).unwrap();
            let took = begin.elapsed();
            assert!(took >= DELAY && took < 2 * DELAY, "{took:?}");
        }
    }
}
