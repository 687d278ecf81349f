//! Streaming WAL from a real server.

use std::time::Duration;

use highwater::{
    clock::{Clock, SystemClock},
    postgres::{
        Lsn, TimelineId,
        replication::{Event, Replication, Switch, WalStream},
        session::Client,
        slot, wal_reader,
    },
};

use crate::database::{Database, PASSWORD};

const SLOT: &str = "highwater_test";
const LIMIT: Duration = Duration::from_secs(30);

/// A server that lets its superuser replicate, with a slot that holds WAL.
async fn start() -> (Database, Client) {
    let database = Database::start(1, "wal_sender_timeout = '4s'");
    database.allow_replication().await;
    let client = database.client().await;
    slot::create(&client, SLOT).await.unwrap();
    (database, client)
}

async fn connect(database: &Database) -> Replication {
    let options = database.login("postgres", Some(PASSWORD));
    Replication::connect(&options).await.unwrap()
}

/// From the start of the segment that the slot holds.
async fn stream(database: &Database, client: &Client) -> (WalStream, Lsn) {
    let mut replication = connect(database).await;
    let identity = replication.identify().await.unwrap();
    let facts = highwater::postgres::server::facts(client).await.unwrap();
    assert_eq!(identity.system_identifier, facts.system_identifier);
    assert_eq!(identity.timeline, facts.timeline);
    let held = slot::find(client, SLOT).await.unwrap().unwrap();
    let restart = held.restart_lsn.unwrap();
    let from = Lsn::new(restart.get() - database.segment_size.offset(restart));
    let stream = replication.start(from, identity.timeline).await;
    (stream.unwrap(), from)
}

async fn next(stream: &mut WalStream) -> Event {
    let event = tokio::time::timeout(LIMIT, stream.next()).await;
    event.expect("nothing comes").unwrap()
}

/// What comes up to `end`.
async fn receive(stream: &mut WalStream, mut at: Lsn, end: Lsn) -> Vec<u8> {
    let mut received = Vec::new();
    while at < end {
        match next(stream).await {
            Event::Wal { start, bytes } => {
                assert_eq!(start, at);
                at = start.advance(bytes.len() as u64);
                received.extend_from_slice(&bytes);
            }
            Event::Alive { .. } => {}
            Event::Ended => panic!("ended at {at}"),
        }
    }
    received
}

async fn confirm(stream: &mut WalStream, durable: Option<Lsn>) {
    stream.confirm(durable, SystemClock.now()).await.unwrap();
}

async fn write(client: &Client, bytes: usize) -> Lsn {
    let some = format!("SELECT pg_logical_emit_message(true, 'some', repeat('x', {bytes}))");
    client.batch_execute(&some).await.unwrap();
    wal_reader::flush_position(client).await.unwrap().lsn
}

async fn restart_lsn(client: &Client) -> Lsn {
    let held = slot::find(client, SLOT).await.unwrap().unwrap();
    held.restart_lsn.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect(what);
}

async fn streams_what_the_server_wrote(database: &Database) {
    let client = database.client().await;
    let (mut stream, from) = stream(database, &client).await;
    let end = write(&client, 3 << 20).await;
    let received = receive(&mut stream, from, end).await;
    let size = database.segment_size;
    let mut name = highwater::postgres::SegmentName::containing(TimelineId::FIRST, from, size);
    let length = usize::try_from(end.bytes_since(from)).unwrap();
    let mut written = Vec::new();
    while written.len() < length {
        written.extend(database.segment(name));
        name = name.next(size);
    }
    assert!(received[..length] == written[..length]);

    // Who does not say what is durable is no synchronous standby, whatever the names; who does is.
    let anybody = "ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()";
    database.sql(anybody).await;
    for (durable, state) in [(Some(end), "sync"), (None, "async")] {
        confirm(&mut stream, durable).await;
        let seen = "SELECT sync_state, flush_lsn::text, replay_lsn::text, write_lsn::text \
            FROM pg_stat_replication";
        until(state, async || {
            let row = client.query_one(seen, &[]).await.unwrap();
            row.get::<_, &str>(0) == state
                && row.get::<_, Option<String>>(1) == durable.map(|lsn| lsn.to_string())
                && row.get::<_, Option<&str>>(2).is_none()
                && row.get::<_, Option<&str>>(3).is_some()
        })
        .await;
    }
    // Its slot can be moved meanwhile.
    slot::advance(&client, SLOT, end).await.unwrap();
    let nobody = "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()";
    database.sql(nobody).await;
}

#[tokio::test]
async fn wal_comes_as_the_server_writes_it() {
    let (database, client) = start().await;
    streams_what_the_server_wrote(&database).await;
    drop(client);
    database.stop("fast");
    database.serve_tls();
    database.boot();
    streams_what_the_server_wrote(&database).await;
}

#[tokio::test]
async fn a_commit_waits_until_it_is_durable_here() {
    let (database, client) = start().await;
    drop(client);
    database.stop("fast");
    // Before it starts: a session heeds a changed setting only some time later.
    let name = "synchronous_standby_names = 'highwater'";
    database.append("postgresql.conf", name);
    database.boot();
    let client = database.client().await;
    let (mut stream, from) = stream(&database, &client).await;
    let committing = tokio::spawn(async move {
        let table = "CREATE TABLE public.acknowledged (i int)";
        client.batch_execute(table).await.unwrap();
    });
    let observer = database.client().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let mut received = from;
    let mut follow = async |durable: &dyn Fn(Lsn) -> Lsn| {
        let some = tokio::time::timeout(Duration::from_millis(50), stream.next());
        if let Ok(Ok(Event::Wal { start, bytes })) = some.await {
            received = start.advance(bytes.len() as u64);
        }
        confirm(&mut stream, Some(durable(received))).await;
    };
    until("the commit waits", async || {
        // Received is not durable.
        follow(&|_| from).await;
        let row = observer.query_one(waits, &[]).await.unwrap();
        row.get::<_, i64>(0) == 1
    })
    .await;
    assert!(!committing.is_finished());
    until("the commit is acknowledged", async || {
        follow(&|received| received).await;
        committing.is_finished()
    })
    .await;
    committing.await.unwrap();
}

#[tokio::test]
async fn a_silent_server_is_answered_and_a_stopped_one_is_told_apart() {
    let (database, client) = start().await;
    let (mut stream, from) = stream(&database, &client).await;
    // It asks after half of its timeout, and is content with the answer.
    let mut answers = 0;
    while answers < 3 {
        if let Event::Alive { wants_answer, .. } = next(&mut stream).await
            && wants_answer
        {
            answers += 1;
            confirm(&mut stream, Some(from)).await;
        }
    }
    drop(client);
    database.stop("immediate");
    let lost = loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(lost.is_session_lost(), "{lost}");
}

#[tokio::test]
async fn a_refusal_has_its_reason() {
    let (database, client) = start().await;
    client
        .batch_execute("CREATE ROLE outsider LOGIN PASSWORD 'hunter2'; CREATE ROLE unlisted LOGIN REPLICATION PASSWORD 'hunter2'")
        .await
        .unwrap();
    for (user, password, reason) in [
        ("outsider", "hunter2", "AccessRefused"),
        ("unlisted", "hunter2", "AccessRefused"),
        ("postgres", "hunter2", "PasswordRejected"),
    ] {
        let options = database.login(user, Some(password));
        let refused = Replication::connect(&options).await.err().expect(user);
        assert_eq!(refused.reason(), reason, "{refused}");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    // WAL that is gone.
    let held = restart_lsn(&client).await;
    let end = write(&client, 4 << 20).await;
    slot::advance(&client, SLOT, end).await.unwrap();
    client.batch_execute("CHECKPOINT").await.unwrap();
    client.batch_execute("CHECKPOINT").await.unwrap();
    let streaming = connect(&database)
        .await
        .start(held, TimelineId::FIRST)
        .await;
    let gone = match streaming {
        Err(error) => error,
        Ok(mut stream) => loop {
            match stream.next().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        },
    };
    assert!(
        gone.to_string().contains("has already been removed"),
        "{gone}"
    );
    assert!(gone.is_file_missing() && !gone.is_session_lost());
}

#[tokio::test]
async fn the_end_of_a_timeline_names_the_next() {
    let (database, client) = start().await;
    write(&client, 1 << 20).await;
    drop(client);
    database.stop("fast");
    let promoted = database.copy("restore_command = 'false'\nrecovery_target_timeline = 'latest'");
    promoted.append("standby.signal", "");
    promoted.boot();
    promoted.allow_replication().await;
    let client = promoted.client().await;
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    let after = wal_reader::flush_position(&client).await.unwrap();
    assert_eq!(after.timeline.get(), 2);
    let text = wal_reader::history_file(&client, after.timeline).await;
    let text = String::from_utf8(text.unwrap().unwrap().to_vec()).unwrap();
    let history = highwater::postgres::TimelineHistory::parse(after.timeline, &text).unwrap();
    let switch = history.parent().unwrap().switch_lsn;

    let begin = Lsn::new(switch.get() - promoted.segment_size.offset(switch));
    let replication = connect(&promoted).await;
    let streaming = replication.start(begin, TimelineId::FIRST).await;
    let mut stream = streaming.unwrap();
    receive(&mut stream, begin, switch).await;
    while next(&mut stream).await != Event::Ended {}
    let goes_on = Switch {
        next: after.timeline,
        at: switch,
    };
    assert_eq!(stream.end().await.unwrap(), goes_on);
    // From the switch itself there is nothing to stream, and the same is said.
    let replication = connect(&promoted).await;
    let streaming = replication.start(switch, TimelineId::FIRST).await;
    let mut stream = streaming.unwrap();
    assert_eq!(next(&mut stream).await, Event::Ended);
    assert_eq!(stream.end().await.unwrap(), goes_on);
}
