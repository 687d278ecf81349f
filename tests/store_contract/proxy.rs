//! A proxy between the client and a real server that goes wrong on demand: what is lost on the way is lost after the server
//! has done it, or does it later.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

use crate::http::{Message, answer, exchange, read_request, reset};

/// What becomes of one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server has done it; the connection ends without an answer.
    Closed,
    /// The server has done it; the connection is reset.
    Reset,
    /// The server has done it; the answer says that it failed.
    Error500,
    /// The server has done it; the client waits.
    Silence,
    /// Not the server answers.
    Canned(Message),
    /// It is with the proxy, and reaches the server later, whether or not the client still waits.
    Held(Arc<Gate>),
}

/// Where a request is held.
#[derive(Debug, Default)]
pub struct Gate {
    arrived: Notify,
    open: Notify,
    done: Notify,
    answer: Mutex<Option<String>>,
}

impl Gate {
    /// Until the whole request is there.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Lets it go to the server, and returns the server's status once that has done it.
    pub async fn let_through(&self) -> String {
        self.open.notify_one();
        self.done.notified().await;
        self.answer.lock().unwrap().clone().unwrap()
    }
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    /// The next request with this method whose target has this in it.
    armed: Mutex<Vec<(&'static str, String, Fault)>>,
    seen: Mutex<Vec<Message>>,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// In front of the server at this port.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream,
            armed: Mutex::default(),
            seen: Mutex::default(),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(one(stream, serving.clone()));
            }
        });
        Self { port, shared, task }
    }

    /// The next request with this method whose target has `part` in it meets this.
    pub fn once(&self, method: &'static str, part: impl Into<String>, fault: Fault) {
        let mut armed = self.shared.armed.lock().unwrap();
        armed.push((method, part.into(), fault));
    }

    pub fn hold(&self, method: &'static str, part: impl Into<String>) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.once(method, part, Fault::Held(gate.clone()));
        gate
    }

    /// Whether every fault has been met: a test that meets none proves nothing.
    pub fn all_met(&self) -> bool {
        self.shared.armed.lock().unwrap().is_empty()
    }

    /// What came by since the last call, without bodies.
    pub fn seen(&self) -> Vec<Message> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn take(&self, request: &Message) -> Option<Fault> {
        let mut armed = self.armed.lock().unwrap();
        let met = |(method, part, _): &(&'static str, String, Fault)| {
            *method == request.method() && request.target().contains(part.as_str())
        };
        let index = armed.iter().position(met)?;
        Some(armed.remove(index).2)
    }
}

/// One connection. Its errors are the client's and the server's to tell.
async fn one(mut stream: TcpStream, shared: Arc<Shared>) {
    let Ok(request) = read_request(&mut stream).await else {
        return;
    };
    let head = Message {
        body: Vec::new(),
        ..request.clone()
    };
    shared.seen.lock().unwrap().push(head);
    let fault = shared.take(&request);
    if let Some(Fault::Canned(canned)) = fault {
        let _ = answer(stream, canned).await;
        return;
    }
    if let Some(Fault::Held(gate)) = &fault {
        gate.arrived.notify_one();
        gate.open.notified().await;
    }
    let answered = exchange(shared.upstream, request).await;
    match fault {
        Some(Fault::Closed) => drop(stream),
        Some(Fault::Reset) => reset(stream),
        Some(Fault::Error500) => {
            let failed = "<Error><Code>InternalError</Code><Message>try again</Message></Error>";
            let failed = Message::new("HTTP/1.1 500 Internal Server Error", failed);
            let _ = answer(stream, failed).await;
        }
        Some(Fault::Silence) => tokio::time::sleep(Duration::from_secs(600)).await,
        Some(Fault::Canned(_)) => {}
        Some(Fault::Held(gate)) => {
            let answered = answered.unwrap();
            *gate.answer.lock().unwrap() = Some(answered.target().to_owned());
            gate.done.notify_one();
            let _ = answer(stream, answered).await;
        }
        None => {
            if let Ok(answered) = answered {
                let _ = answer(stream, answered).await;
            }
        }
    }
}
