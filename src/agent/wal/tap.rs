//! A stream of WAL in a task of its own: the server is answered while the archive takes its time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    clock::Clock,
    postgres::{
        Lsn, SystemIdentifier, TimelineId,
        replication::{Event, Identity, Replication, Switch, WalStream},
        session::{Client, ConnectError, ConnectOptions, QueryError},
    },
};

/// Bytes that wait to be taken: what the server has beyond stays with the server.
const AHEAD: u32 = 4 << 20;
/// What the server sends at most at once.
const MESSAGE: u32 = 128 << 10;
/// How often the server hears from us; it gives up after `wal_sender_timeout`, and its questions may wait behind WAL.
const ANSWER: Duration = Duration::from_secs(1);
/// How long WAL that PostgreSQL has flushed may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// No stream.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No session that streams.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refuses, or the session is lost.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Another server answers at the address than before.
    #[error("failed to stream WAL: another server answers now: system identifier {found}")]
    Stranger {
        /// Its system identifier.
        found: SystemIdentifier,
    },
    /// The server writes another timeline than before.
    #[error("failed to stream WAL: PostgreSQL is on timeline {0} now")]
    TimelineChanged(TimelineId),
    /// The timeline ends before what was asked for.
    #[error("failed to stream WAL: the timeline ends at {}, timeline {} goes on", .0.at, .0.next)]
    TimelineEnded(Switch),
    /// Nothing comes.
    #[error("failed to stream WAL: PostgreSQL has flushed some and sent none for {} s", PATIENCE.as_secs())]
    Silent,
    /// The session beside the stream has ended, so the server may be stopping.
    #[error("the connection to PostgreSQL ended")]
    SessionLost,
}

impl TapError {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Query(error) => error.reason(),
            Self::Stranger { .. } => "AnotherServer",
            Self::TimelineChanged(_) | Self::TimelineEnded(_) => "TimelineChanged",
            Self::Silent | Self::SessionLost => "SessionLost",
        }
    }

    /// Whether the server has removed the WAL that was asked for.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Query(error) if error.is_file_missing())
    }
}

/// Which server is meant, and how it is reached.
#[derive(Clone)]
pub struct Server {
    /// How it is reached.
    pub options: ConnectOptions,
    /// Who it is: an address may be another's by now.
    pub system_identifier: SystemIdentifier,
    /// The timeline that it writes.
    pub timeline: TimelineId,
    /// The session beside the stream. It ends first where the server stops, and a stream that is not read would keep the
    /// server from stopping.
    pub client: Arc<Client>,
    /// Tells the server our time.
    pub clock: Arc<dyn Clock>,
}

/// Bytes, and the room that they take.
type Chunk = (Bytes, OwnedSemaphorePermit);

/// WAL as it comes.
pub struct Tap {
    timeline: TimelineId,
    /// Where the next byte that is taken lies.
    at: Lsn,
    /// What has come and was not taken.
    rest: VecDeque<Chunk>,
    incoming: mpsc::UnboundedReceiver<Result<Chunk, TapError>>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Tap {
    /// Begins at `at` of `timeline`, which is the server's or an ancestor of it. The server is told what is `durable` at
    /// once: while that is `None`, it does not count this stream as a standby that commits can wait for.
    ///
    /// # Errors
    /// No session, another server, or the server refuses.
    pub async fn open(
        server: &Server,
        timeline: TimelineId,
        at: Lsn,
        durable: watch::Receiver<Option<Lsn>>,
    ) -> Result<Self, TapError> {
        let mut replication = Replication::connect(&server.options).await?;
        let Identity {
            system_identifier,
            timeline: now,
            flushed: _,
        } = replication.identify().await?;
        if system_identifier != server.system_identifier {
            replication.close().await;
            let found = system_identifier;
            return Err(TapError::Stranger { found });
        }
        if now != server.timeline {
            replication.close().await;
            return Err(TapError::TimelineChanged(now));
        }
        let stream = replication.start(at, timeline).await?;
        let (sender, incoming) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stream = Answered { stream, durable };
        let task = run(stream, server.clone(), sender, stop.clone());
        Ok(Self {
            timeline,
            at,
            rest: VecDeque::new(),
            incoming,
            stop,
            task: AbortOnDropHandle::new(tokio::spawn(task)),
        })
    }

    /// Whether the next byte is the one at `at` of `timeline`.
    pub fn is_at(&self, timeline: TimelineId, at: Lsn) -> bool {
        self.timeline == timeline && self.at == at
    }

    /// The next bytes, at most `most`.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn take(&mut self, most: usize) -> Result<Bytes, TapError> {
        let (mut bytes, room) = match self.rest.pop_front() {
            Some(rest) => rest,
            None => {
                let next = timeout(PATIENCE, self.incoming.recv()).await;
                let next = next.map_err(|_| TapError::Silent)?;
                // A task that is gone has said why before.
                next.unwrap_or(Err(TapError::SessionLost))?
            }
        };
        let taken = bytes.split_to(bytes.len().min(most));
        if !bytes.is_empty() {
            self.rest.push_front((bytes, room));
        }
        self.at = self.at.advance(taken.len() as u64);
        Ok(taken)
    }

    /// Waits until there is something to take; returns where all that has come ends. Nothing is lost if this is dropped
    /// while it waits.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn more(&mut self) -> Result<Lsn, TapError> {
        if self.rest.is_empty() {
            let next = self.incoming.recv().await;
            self.rest
                .push_back(next.unwrap_or(Err(TapError::SessionLost))?);
        }
        while let Ok(next) = self.incoming.try_recv() {
            self.rest.push_back(next?);
        }
        let come = self.rest.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        Ok(self.at.advance(come))
    }

    /// Ends the stream and waits until the server has let go of it.
    pub async fn close(self) {
        self.stop.cancel();
        // It cannot fail, and its closing has a limit of its own.
        let _ = self.task.await;
    }
}

/// A stream, and what its server is told.
struct Answered {
    stream: WalStream,
    durable: watch::Receiver<Option<Lsn>>,
}

/// Reads on as long as there is room, and answers all the time.
async fn run(
    stream: Answered,
    server: Server,
    sender: mpsc::UnboundedSender<Result<Chunk, TapError>>,
    stop: CancellationToken,
) {
    let ended = tokio::select! {
        ended = read(stream, &server, &sender, &stop) => ended,
        () = server.client.ended() => Some(TapError::SessionLost),
    };
    if let Some(error) = ended {
        // Nobody may listen any more: then nobody needs to know.
        let _ = sender.send(Err(error));
    }
}

/// `None`: it is to stop.
async fn read(
    Answered {
        mut stream,
        mut durable,
    }: Answered,
    server: &Server,
    sender: &mpsc::UnboundedSender<Result<Chunk, TapError>>,
    stop: &CancellationToken,
) -> Option<TapError> {
    let free = Arc::new(Semaphore::new(AHEAD as usize));
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut answer = interval(ANSWER);
    answer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let must_answer = tokio::select! {
            () = stop.cancelled() => {
                stream.close().await;
                return None;
            }
            _ = answer.tick() => true,
            // Whoever says it may be gone; then it stays as it is.
            Ok(()) = durable.changed() => true,
            // It is never closed.
            permit = free.clone().acquire_many_owned(MESSAGE), if room.is_none() => {
                room = permit.ok();
                false
            }
            event = stream.next(), if room.is_some() => match event {
                Ok(Event::Wal { start: _, bytes }) => {
                    let mut whole = room.take()?;
                    // What the message did not take is free again.
                    let taken = whole.split(bytes.len().min(MESSAGE as usize))?;
                    drop(whole);
                    if sender.send(Ok((bytes, taken))).is_err() {
                        return None;
                    }
                    false
                }
                Ok(Event::Alive { end: _, wants_answer }) => wants_answer,
                Ok(Event::Ended) => {
                    let switch = stream.end().await;
                    return Some(switch.map_or_else(TapError::Query, TapError::TimelineEnded));
                }
                Err(error) => return Some(error.into()),
            },
        };
        let told = *durable.borrow_and_update();
        if must_answer && let Err(error) = stream.confirm(told, server.clock.now()).await {
            return Some(error.into());
        }
    }
}
