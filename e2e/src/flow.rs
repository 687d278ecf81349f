//! A program's connections that break when they are told to: for tests that kill a controller or an agent after each of its
//! requests to the API server, or statements to PostgreSQL. They also keep a list of what was sent.

mod frames;
pub mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use anyhow::Result;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

/// How a program dies around its last request or statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The server never sees it.
    BeforeSending,
    /// The server has carried it out; the program never learns of it.
    BeforeAnswer,
}

/// What is counted up to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// Writes but events: these tell of what happened; nothing depends on them.
    Writes,
    /// Everything, reads, watches and events too.
    Requests,
    /// Objects of one kind, by its name in the path, that are created.
    Creations(&'static str),
}

impl Counted {
    fn counts(self, method: &Method, path: &str) -> bool {
        match self {
            Self::Writes => is_write(method, path),
            Self::Requests => true,
            Self::Creations(resource) => {
                method == Method::POST && path.rsplit('/').next() == Some(resource)
            }
        }
    }
}

/// A request that left.
#[derive(Clone, Debug)]
pub struct Sent {
    /// `POST`, and so on.
    pub method: Method,
    /// Without the query.
    pub path: String,
    /// The answer, once there is one; `None` in it where there will be none.
    pub answer: Option<Option<u16>>,
}

impl Sent {
    fn is_write(&self) -> bool {
        is_write(&self.method, &self.path)
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn is_write(method: &Method, path: &str) -> bool {
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    writes.contains(method) && !path.contains("/events")
}

/// What a program may still do, and what it has done.
#[derive(Clone)]
pub struct Lifeline(Arc<Inner>);

struct Inner {
    counted: Counted,
    /// How many may be sent up to death, and how it dies.
    end: Option<(usize, Death)>,
    /// The request from which on all wait.
    pause_at: Option<usize>,
    pause: watch::Sender<Pause>,
    sent: Mutex<Vec<Sent>>,
    count: watch::Sender<usize>,
    dead: watch::Sender<bool>,
}

/// Where a program stands that is to be held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    NotYet,
    Paused,
    Over,
}

impl Lifeline {
    /// Dies at write `number`, from 1.
    pub fn ending_at(number: usize, death: Death) -> Self {
        Self::new(Counted::Writes, Some((number, death)), None)
    }

    /// Dies when it creates the first object of this kind, as in `volumesnapshots`, however many writes come before.
    pub fn ending_at_creation(resource: &'static str, death: Death) -> Self {
        Self::new(Counted::Creations(resource), Some((1, death)), None)
    }

    /// Dies at request `number`, from 1.
    pub fn ending_at_request(number: usize, death: Death) -> Self {
        Self::new(Counted::Requests, Some((number, death)), None)
    }

    /// Sends request `number`, from 1, and what follows, only after [`Self::resume`].
    pub fn pausing_at_request(number: usize) -> Self {
        Self::new(Counted::Requests, None, Some(number))
    }

    /// Lives.
    pub fn endless() -> Self {
        Self::new(Counted::Requests, None, None)
    }

    fn new(counted: Counted, end: Option<(usize, Death)>, pause_at: Option<usize>) -> Self {
        Self(Arc::new(Inner {
            counted,
            end,
            pause_at,
            pause: watch::Sender::new(Pause::NotYet),
            sent: Mutex::default(),
            count: watch::Sender::new(0),
            dead: watch::Sender::new(false),
        }))
    }

    /// A client at the end of this line, for the cluster of the environment's kubeconfig.
    ///
    /// # Errors
    /// No kubeconfig.
    pub async fn client(&self) -> Result<Client> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::infer().await?;
        config.default_retry = false;
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }

    /// What was sent.
    pub fn sent(&self) -> Vec<Sent> {
        self.list().clone()
    }

    /// The writes that were sent, without events, as method and path.
    pub fn writes(&self) -> Vec<String> {
        let list = self.list();
        let writes = list.iter().filter(|sent| sent.is_write());
        writes.map(Sent::to_string).collect()
    }

    /// Returns when so many requests were sent.
    pub async fn has_sent(&self, number: usize) {
        let mut count = self.0.count.subscribe();
        let _ = count.wait_for(|count| *count >= number).await;
    }

    /// How many have no answer yet.
    pub fn on_their_way(&self) -> usize {
        let list = self.list();
        list.iter().filter(|sent| sent.answer.is_none()).count()
    }

    /// Dies now, for whatever reason.
    pub fn die(&self) {
        self.0.dead.send_replace(true);
    }

    /// Returns when the program is dead.
    pub async fn death(&self) {
        let mut dead = self.0.dead.subscribe();
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Whether it is dead.
    pub fn is_dead(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// Returns when the request is reached that it pauses at.
    pub async fn paused(&self) {
        let mut pause = self.0.pause.subscribe();
        let _ = pause.wait_for(|pause| *pause == Pause::Paused).await;
    }

    /// Lets what waits leave. One that does not wait yet will still.
    pub fn resume(&self) {
        self.0.pause.send_if_modified(|pause| {
            let waits = *pause == Pause::Paused;
            if waits {
                *pause = Pause::Over;
            }
            waits
        });
    }

    async fn resumed(&self) {
        let mut pause = self.0.pause.subscribe();
        self.0.pause.send_if_modified(|pause| {
            let first = *pause == Pause::NotYet;
            if first {
                *pause = Pause::Paused;
            }
            first
        });
        let _ = pause.wait_for(|pause| *pause == Pause::Over).await;
    }

    fn list(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.0.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to a request. Of those that are sent at once, those after the last never leave.
    fn fate(&self, request: &Request<Body>) -> Fate {
        let (method, path) = (request.method(), request.uri().path());
        let counted = self.0.counted;
        let mut list = self.list();
        let before = list
            .iter()
            .filter(|sent| counted.counts(&sent.method, &sent.path));
        let number = 1 + before.count();
        let last = self.0.end.filter(|_| counted.counts(method, path));
        match last {
            Some((last, _)) if number > last => return Fate::NeverLeaves,
            Some((last, Death::BeforeSending)) if number == last => return Fate::IsNotSent,
            Some(_) | None => {}
        }
        list.push(Sent {
            method: method.clone(),
            path: path.to_owned(),
            answer: None,
        });
        self.0.count.send_replace(list.len());
        let at = list.len() - 1;
        match last {
            Some((last, Death::BeforeAnswer)) if number == last => Fate::IsNotAnswered(at),
            Some(_) | None if self.0.pause_at.is_some_and(|pause| number >= pause) => {
                Fate::Waits(at)
            }
            Some(_) | None => Fate::Passes(at),
        }
    }
}

/// A request on its way; given up, it will not be answered.
struct Way {
    lifeline: Lifeline,
    at: usize,
    status: Option<u16>,
}

impl Way {
    fn new(lifeline: &Lifeline, at: usize) -> Self {
        let (lifeline, status) = (lifeline.clone(), None);
        Self {
            lifeline,
            at,
            status,
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(sent) = self.lifeline.list().get_mut(self.at) {
            sent.answer = Some(self.status);
        }
    }
}

/// With the place in the list of what was sent.
enum Fate {
    Passes(usize),
    Waits(usize),
    IsNotSent,
    IsNotAnswered(usize),
    NeverLeaves,
}

impl<S> Layer<S> for Lifeline {
    type Service = Line<S>;

    fn layer(&self, inner: S) -> Line<S> {
        Line {
            lifeline: self.clone(),
            inner,
        }
    }
}

/// The service at the end of a [`Lifeline`].
pub struct Line<S> {
    lifeline: Lifeline,
    inner: S,
}

impl<S, B> Service<Request<Body>> for Line<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let dead = || Box::pin(async { Err(BoxError::from("the program is dead")) });
        if self.lifeline.is_dead() {
            return dead();
        }
        let lifeline = self.lifeline.clone();
        let (at, waits, is_last) = match lifeline.fate(&request) {
            // An answer, even an error, would let the program drop the last request before it is carried out.
            Fate::NeverLeaves => {
                return Box::pin(async move {
                    lifeline.death().await;
                    Err(BoxError::from("the program is dead"))
                });
            }
            Fate::IsNotSent => {
                lifeline.die();
                return dead();
            }
            Fate::IsNotAnswered(at) => (at, false, true),
            Fate::Waits(at) => (at, true, false),
            Fate::Passes(at) => (at, false, false),
        };
        // Nothing leaves before this is polled.
        let answer = self.inner.call(request);
        let mut way = Way::new(&lifeline, at);
        Box::pin(async move {
            if waits {
                lifeline.resumed().await;
            }
            let answer = answer.await;
            way.status = answer.as_ref().ok().map(|it| it.status().as_u16());
            drop(way);
            if is_last {
                lifeline.die();
                return Err(BoxError::from("the program died before the answer"));
            }
            answer.map_err(Into::into)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::{FutureExt, future::join_all};
    use tower::service_fn;

    use super::*;

    /// How many of three writes sent at once reach a server that never answers.
    fn reach(lifeline: &Lifeline) -> usize {
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        let mut line = lifeline.layer(service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            pending::<Result<Response<()>, Infallible>>()
        }));
        let post = || {
            let request = Request::post("/apis/volumesnapshots");
            request.body(Body::empty()).unwrap()
        };
        let writes: Vec<_> = (0..3).map(|_| line.call(post())).collect();
        let _ = join_all(writes).now_or_never();
        reached.load(Ordering::SeqCst)
    }

    #[test]
    fn nothing_leaves_after_the_last_write_although_it_is_not_answered_yet() {
        let last = Lifeline::ending_at(1, Death::BeforeAnswer);
        assert_eq!(reach(&last), 1);
        assert_eq!(last.writes().len(), 1);
        assert!(!last.is_dead(), "the last write is still on its way");
        let unsent = Lifeline::ending_at(2, Death::BeforeSending);
        assert_eq!(reach(&unsent), 1);
        assert_eq!(reach(&Lifeline::endless()), 3);
        let created = |resource| Lifeline::ending_at_creation(resource, Death::BeforeAnswer);
        assert_eq!(reach(&created("volumesnapshots")), 1);
        assert_eq!(reach(&created("snapshots")), 3);
    }

    #[test]
    fn what_is_paused_leaves_only_when_it_is_resumed() {
        let paused = Lifeline::pausing_at_request(2);
        paused.resume();
        let (sender, leaves) = std::sync::mpsc::channel();
        let mut line = paused.layer(service_fn(move |_: Request<Body>| {
            let sender = sender.clone();
            async move {
                sender.send(()).unwrap();
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        let mut get = || line.call(Request::get("/api").body(Body::empty()).unwrap());
        let (mut first, mut second) = (get(), get());
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut second).now_or_never().is_none());
        assert_eq!((leaves.try_iter().count(), paused.on_their_way()), (1, 1));
        assert!(paused.paused().now_or_never().is_some());
        paused.resume();
        assert!(second.now_or_never().is_some());
        assert_eq!((leaves.try_iter().count(), paused.on_their_way()), (1, 0));
    }
}
