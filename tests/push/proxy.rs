//! A proxy before the store: each request arrives later, or never.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Forwards to a port until it is dropped with the process.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    to: u16,
    delay: Duration,
    cut: AtomicBool,
    requests: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn start(to: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            to,
            delay,
            cut: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.accept(client);
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// No request is answered any more, not even those that are on their way.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    pub fn requests(&self) -> usize {
        self.state.requests.swap(0, Ordering::SeqCst)
    }
}

impl State {
    fn accept(self: &Arc<Self>, client: TcpStream) {
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let server = TcpStream::connect(("127.0.0.1", self.to)).unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            self.open.lock().unwrap().push(stream.try_clone().unwrap());
        }
        // What comes after an answer is a new request.
        let answered = Arc::new(AtomicBool::new(true));
        let (this, flag) = (self.clone(), answered.clone());
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            forward(from, to, || {
                if flag.swap(false, Ordering::SeqCst) {
                    this.requests.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(this.delay);
                }
            });
        });
        thread::spawn(move || forward(server, client, || answered.store(true, Ordering::SeqCst)));
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut()) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        seen();
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
