//! A proxy before the store: each request arrives later, or never.

use std::{
    borrow::Cow,
    collections::BTreeMap,
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
    /// Answers come late by another time for each request, up to twice the delay.
    uneven: bool,
    requests: AtomicUsize,
    waiting: AtomicUsize,
    puts: Mutex<Puts>,
    held: Mutex<Option<String>>,
    /// Both ends of each connection, until it is over.
    open: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
}

/// Puts of whole segments that have come and are not answered.
#[derive(Default)]
struct Puts {
    now: usize,
    most: usize,
}

impl Proxy {
    pub fn start(to: u16, delay: Duration) -> Self {
        Self::start_as(to, delay, false)
    }

    /// Requests overtake each other.
    pub fn uneven(to: u16, delay: Duration) -> Self {
        Self::start_as(to, delay, true)
    }

    fn start_as(to: u16, delay: Duration, uneven: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            to,
            delay,
            cut: AtomicBool::new(false),
            uneven,
            requests: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            puts: Mutex::default(),
            held: Mutex::default(),
            open: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for (connection, client) in (0..).zip(listener.incoming().flatten()) {
                shared.accept(connection, client);
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
        let open = std::mem::take(&mut *self.state.open.lock().unwrap());
        for stream in open.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Requests whose first line has `what` in it do not reach the store before [`Self::let_go`].
    pub fn hold(&self, what: &str) {
        *self.state.held.lock().unwrap() = Some(what.to_owned());
    }

    /// Undoes [`Self::hold`].
    pub fn let_go(&self) {
        *self.state.held.lock().unwrap() = None;
    }

    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Requests that wait for their answer.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.state.requests.swap(0, Ordering::SeqCst)
    }

    /// The most whole segments that were being put at once.
    pub fn most_puts(&self) -> usize {
        self.state.puts.lock().unwrap().most
    }

    /// Counts [`Self::most_puts`] anew.
    pub fn count_puts_anew(&self) {
        let mut puts = self.state.puts.lock().unwrap();
        puts.most = puts.now;
    }
}

impl State {
    fn accept(self: &Arc<Self>, connection: u64, client: TcpStream) {
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let server = TcpStream::connect(("127.0.0.1", self.to)).unwrap();
        let ends = [&client, &server].map(|stream| {
            stream.set_nodelay(true).unwrap();
            stream.try_clone().unwrap()
        });
        self.open.lock().unwrap().insert(connection, ends);
        // What comes after an answer is a new request.
        let answered = Arc::new(AtomicBool::new(true));
        let (this, flag) = (self.clone(), answered.clone());
        let (that, done) = (self.clone(), answered.clone());
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let put = Arc::new(AtomicBool::new(false));
        let its_put = put.clone();
        thread::spawn(move || {
            forward(from, to, |head| {
                if flag.swap(false, Ordering::SeqCst) {
                    this.put_begins(head, &put);
                    let number = this.requests.fetch_add(1, Ordering::SeqCst);
                    this.waiting.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(this.delay_of(number));
                    this.wait_while_held(head);
                }
            });
            this.put_ends(&put);
        });
        thread::spawn(move || {
            let answer = |_: &[u8]| {
                if !answered.swap(true, Ordering::SeqCst) {
                    that.waiting_less();
                }
                that.put_ends(&its_put);
            };
            forward(server, client, answer);
            that.put_ends(&its_put);
            that.open.lock().unwrap().remove(&connection);
            // A connection that ends takes its question with it.
            if !done.swap(true, Ordering::SeqCst) {
                that.waiting_less();
            }
        });
    }
}

impl State {
    fn delay_of(&self, number: usize) -> Duration {
        match self.uneven {
            false => self.delay,
            // Any order will do that is not the one they came in.
            true => self.delay * u32::try_from(number * 7 % 5).unwrap_or(0) / 2,
        }
    }

    /// A connection's request comes; `put` says whether it is one that counts.
    fn put_begins(&self, head: &[u8], put: &AtomicBool) {
        let line = first_line(head);
        let counts = line.starts_with("PUT ") && line.contains("/wal/");
        let mut puts = self.puts.lock().unwrap();
        if counts && !put.swap(true, Ordering::SeqCst) {
            puts.now += 1;
            puts.most = puts.most.max(puts.now);
        }
    }

    fn put_ends(&self, put: &AtomicBool) {
        let mut puts = self.puts.lock().unwrap();
        if put.swap(false, Ordering::SeqCst) {
            puts.now -= 1;
        }
    }

    fn wait_while_held(&self, head: &[u8]) {
        let line = first_line(head);
        let is_held = || {
            let held = self.held.lock().unwrap();
            held.as_deref().is_some_and(|held| line.contains(held))
        };
        while is_held() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn waiting_less(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn first_line(head: &[u8]) -> Cow<'_, str> {
    let line = head.split(|byte| *byte == b'\r').next();
    String::from_utf8_lossy(line.unwrap_or_default())
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        seen(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
