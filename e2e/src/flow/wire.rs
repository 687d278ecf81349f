//! A way to PostgreSQL that counts statements and breaks at one of them.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use highwater::clock::{Clock, SystemClock};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Death, Lifeline,
    frames::{Frame, Heard, Statements},
};

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The program, with all of its connections.
    Program,
    /// The connection that the statement is on.
    Connection,
}

/// Where it breaks.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Of all statements, from 1. To log in is one.
    pub number: usize,
    /// When.
    pub death: Death,
    /// What.
    pub victim: Victim,
}

/// A statement that left.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The connection that it was on.
    pub connection: usize,
    /// Its text.
    pub text: String,
    /// When it was sent.
    pub sent: Timestamp,
    /// When its answer was there.
    pub answered: Option<Timestamp>,
    /// The answer was an error.
    pub failed: bool,
}

/// A port that leads to PostgreSQL. It dies with its lifeline, and the lifeline with it.
pub struct Wire {
    /// Of every address of this machine.
    pub port: u16,
    /// What was sent.
    pub record: Record,
    _accepting: AbortOnDropHandle<()>,
}

struct Inner {
    to: SocketAddr,
    cut: Option<Cut>,
    lifeline: Lifeline,
    statements: Mutex<Vec<Statement>>,
    was_cut: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    /// To a server of this machine.
    ///
    /// # Errors
    /// No port.
    pub async fn start(port: u16, lifeline: &Lifeline, cut: Option<Cut>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let inner = Arc::new(Inner {
            to: (Ipv4Addr::LOCALHOST, port).into(),
            cut,
            lifeline: lifeline.clone(),
            statements: Mutex::default(),
            was_cut: tokio::sync::watch::Sender::new(false),
        });
        let port = listener.local_addr()?.port();
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, inner.clone())));
        Ok(Self {
            port,
            record: Record(inner),
            _accepting: accepting,
        })
    }
}

/// What went over a wire, for as long as anybody wants to know.
#[derive(Clone)]
pub struct Record(Arc<Inner>);

impl Record {
    /// In the order in which it was sent.
    pub fn statements(&self) -> Vec<Statement> {
        self.0.list().clone()
    }

    /// Whether the wire broke where it was to.
    pub fn was_cut(&self) -> bool {
        *self.0.was_cut.borrow()
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    let mut conversations = JoinSet::new();
    let mut number = 0;
    while let Ok((client, _)) = listener.accept().await {
        number += 1;
        let inner = inner.clone();
        conversations.spawn(async move {
            // Both sides see it end, for whatever reason.
            tokio::select! {
                _ = converse(&inner, client, number) => {}
                () = inner.lifeline.death() => {}
            }
        });
        while conversations.try_join_next().is_some() {}
    }
}

/// What is asked and not answered yet on one connection, as places in the list; with the one that it breaks at.
#[derive(Default)]
struct Open {
    asked: VecDeque<usize>,
    last: Option<usize>,
}

async fn converse(inner: &Inner, mut client: TcpStream, number: usize) -> Result<()> {
    let mut server = TcpStream::connect(inner.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut first = Frame::first(&mut client).await?;
    while first.is_negotiation() {
        server.write_all(&first.bytes).await?;
        let answer = server.read_u8().await?;
        client.write_all(&[answer]).await?;
        if answer != b'N' {
            bail!("what is encrypted cannot be counted");
        }
        first = Frame::first(&mut client).await?;
    }
    let open = Mutex::new(Open::default());
    let ((from, back), (answers, mut to)) = (client.into_split(), server.into_split());
    let asks = async {
        inner
            .send(&mut to, &open, number, (first.bytes, "log in".to_owned()))
            .await?;
        ask(inner, from, &mut to, &open, number).await
    };
    tokio::select! {
        ended = asks => ended,
        ended = answer(inner, answers, back, &open) => ended,
    }
}

async fn ask(
    inner: &Inner,
    from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    open: &Mutex<Open>,
    number: usize,
) -> Result<()> {
    let (mut from, mut statements) = (BufReader::new(from), Statements::default());
    while let Some(frame) = Frame::next(&mut from).await? {
        match statements.hear(frame) {
            Heard::GoesOn => {}
            Heard::Aside(bytes) => to.write_all(&bytes).await?,
            Heard::Whole(bytes, text) => inner.send(to, open, number, (bytes, text)).await?,
        }
    }
    Ok(())
}

/// Nothing of the answer that it breaks at comes through.
async fn answer(
    inner: &Inner,
    from: OwnedReadHalf,
    mut back: OwnedWriteHalf,
    open: &Mutex<Open>,
) -> Result<()> {
    let mut from = BufReader::new(from);
    while let Some(frame) = Frame::next(&mut from).await? {
        let (at, last) = {
            let open = lock(open);
            (open.asked.front().copied(), open.last)
        };
        let is_last = at.is_some() && at == last;
        // Ready for the next one; or a stream, where there is no next one.
        let is_end = [b'Z', b'W'].contains(&frame.kind());
        if let Some(at) = at {
            inner.heard(at, frame.kind() == b'E', is_end);
        }
        if is_end {
            lock(open).asked.pop_front();
        }
        match (is_last, is_end) {
            (true, true) => return inner.breaks(),
            (true, false) => {}
            (false, _) => back.write_all(&frame.bytes).await?,
        }
    }
    Ok(())
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn list(&self) -> MutexGuard<'_, Vec<Statement>> {
        lock(&self.statements)
    }

    /// What happens to a statement. Of those that are sent at once, those after a program's last never leave.
    fn fate(&self, connection: usize, text: String) -> Fate {
        let mut list = self.list();
        let number = list.len() + 1;
        let cut = self.cut.filter(|_| !*self.was_cut.borrow());
        match cut {
            Some(cut) if number == cut.number && cut.death == Death::BeforeSending => {
                return Fate::IsNotSent;
            }
            Some(cut) if number > cut.number && cut.victim == Victim::Program => {
                return Fate::NeverLeaves;
            }
            Some(_) | None => {}
        }
        list.push(Statement {
            connection,
            text,
            sent: SystemClock.now(),
            answered: None,
            failed: false,
        });
        match cut {
            Some(cut) if number == cut.number => Fate::IsNotAnswered(number - 1),
            Some(_) | None => Fate::Passes(number - 1),
        }
    }

    async fn send(
        &self,
        to: &mut OwnedWriteHalf,
        open: &Mutex<Open>,
        connection: usize,
        (bytes, text): (Vec<u8>, String),
    ) -> Result<()> {
        let (at, is_last) = match self.fate(connection, text) {
            Fate::NeverLeaves => {
                self.lifeline.death().await;
                bail!("the program is dead");
            }
            Fate::IsNotSent => return self.breaks(),
            Fate::IsNotAnswered(at) => (at, true),
            Fate::Passes(at) => (at, false),
        };
        {
            let mut open = lock(open);
            open.asked.push_back(at);
            open.last = open.last.or(is_last.then_some(at));
        }
        to.write_all(&bytes).await.context("the server is gone")
    }

    fn heard(&self, at: usize, is_error: bool, is_end: bool) {
        if let Some(statement) = self.list().get_mut(at) {
            statement.failed |= is_error;
            if is_end {
                statement.answered = Some(SystemClock.now());
            }
        }
    }

    fn breaks(&self) -> Result<()> {
        self.was_cut.send_replace(true);
        match self.cut.map(|cut| cut.victim) {
            Some(Victim::Program) => self.lifeline.die(),
            Some(Victim::Connection) | None => {}
        }
        bail!("it broke where it was to")
    }
}

/// With the place in the list of what was sent.
enum Fate {
    Passes(usize),
    IsNotSent,
    IsNotAnswered(usize),
    NeverLeaves,
}
