//! A program's connection to the API server that breaks when it is told to: for tests that kill a controller after each of
//! its requests. It also keeps a list of the writes.

use std::{
    sync::{Arc, Mutex, PoisonError},
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

/// How a program dies around its last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The server never sees the write.
    BeforeSending,
    /// The server has carried it out; the program never learns of it.
    BeforeAnswer,
}

/// What a program may still do, and what it has done.
#[derive(Clone)]
pub struct Lifeline(Arc<Inner>);

struct Inner {
    /// Writes up to death, and how it dies.
    end: Option<(usize, Death)>,
    writes: Mutex<Vec<String>>,
    dead: watch::Sender<bool>,
}

impl Lifeline {
    /// Dies at write `number`, from 1.
    pub fn ending_at(number: usize, death: Death) -> Self {
        Self::new(Some((number, death)))
    }

    /// Lives.
    pub fn endless() -> Self {
        Self::new(None)
    }

    fn new(end: Option<(usize, Death)>) -> Self {
        Self(Arc::new(Inner {
            end,
            writes: Mutex::default(),
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

    /// The writes that were sent, as method and path.
    pub fn writes(&self) -> Vec<String> {
        self.0
            .writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns when the program is dead.
    pub async fn death(&self) {
        let mut dead = self.0.dead.subscribe();
        let _ = dead.wait_for(|dead| *dead).await;
    }

    fn is_dead(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// What happens to a request. Of writes that are sent at once, those after the last never leave.
    fn fate(&self, request: &Request<Body>) -> Fate {
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let path = request.uri().path();
        // Events tell of what happened; nothing depends on them.
        if !writes.contains(request.method()) || path.contains("/events") {
            return Fate::Passes;
        }
        let mut list = self.0.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let number = list.len() + 1;
        let fate = match self.0.end {
            Some((last, _)) if number > last => Fate::NeverLeaves,
            Some((last, death)) if number == last => Fate::IsTheLast(death),
            Some(_) | None => Fate::Passes,
        };
        match fate {
            Fate::Passes | Fate::IsTheLast(Death::BeforeAnswer) => {
                list.push(format!("{} {path}", request.method()));
            }
            Fate::NeverLeaves | Fate::IsTheLast(Death::BeforeSending) => {}
        }
        fate
    }
}

enum Fate {
    Passes,
    IsTheLast(Death),
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
        match lifeline.fate(&request) {
            // An answer, even an error, would let the program drop the last write before it is carried out.
            Fate::NeverLeaves => Box::pin(async move {
                lifeline.death().await;
                Err(BoxError::from("the program is dead"))
            }),
            Fate::IsTheLast(Death::BeforeSending) => {
                lifeline.0.dead.send_replace(true);
                dead()
            }
            Fate::IsTheLast(Death::BeforeAnswer) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let _ = answer.await;
                    lifeline.0.dead.send_replace(true);
                    Err(BoxError::from("the program died before the answer"))
                })
            }
            Fate::Passes => {
                let answer = self.inner.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
        }
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
    }
}
