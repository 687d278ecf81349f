//! PostgreSQL archives by itself with the built `highwater wal push`, and the agent watches.

mod copies;
mod late;

use std::path::PathBuf;

use highwater::{
    agent::wal::{ArchiverTrouble, Error, GapCause, Notice, Watched},
    archive::{Contents, Lineage, LineageId},
    postgres::{Lsn, SegmentName, TimelineId, backup_mode, server, slot},
};
use tokio::sync::watch;

use crate::{
    database::Database,
    running::{
        LIMIT, Running, SLOT, begin_as, flushed, lineage_id, same_as_server, verified, write,
    },
    server::Server,
    site::{Site, hand_over, ready, wait_for},
};

const NEVER: std::time::Duration = std::time::Duration::from_secs(3600);

type Seen = watch::Receiver<Option<Watched>>;

/// The reason that a look gives, if it gives one.
fn reason(watched: Option<&Watched>) -> Option<&'static str> {
    watched?.trouble.as_ref().map(ArchiverTrouble::reason)
}

/// Waits until a look says what `is_so` wants.
async fn until(what: &str, seen: &mut Seen, is_so: impl Fn(&Watched) -> bool) -> Watched {
    let wait = seen.wait_for(|watched| watched.as_ref().is_some_and(&is_so));
    let found = tokio::time::timeout(LIMIT, wait).await;
    let found = found.map(|watched| watched.unwrap().clone().unwrap());
    found.unwrap_or_else(|_| panic!("no {what}: {:?}", seen.borrow()))
}

/// Two looks that begin after this.
async fn two_looks(seen: &mut Seen) {
    seen.mark_unchanged();
    for _ in 0..2 {
        tokio::time::timeout(LIMIT, seen.changed())
            .await
            .unwrap()
            .unwrap();
    }
}

/// A store of a test's own, and a place in it.
fn site(name: &str) -> (Server, Site) {
    let server = Server::start();
    let site = Site::at(name, server.port());
    (server, site)
}

/// A command that pushes only while a file is there.
struct Gate(PathBuf);

impl Gate {
    fn of(site: &Site) -> Self {
        Self(site.path("open"))
    }

    fn command(&self, site: &Site) -> String {
        format!("test -e {} && {}", self.0.display(), site.push_command())
    }

    fn close(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }

    /// From now on the command pushes: PostgreSQL tries again when it is woken.
    async fn open(&self, database: &Database) {
        std::fs::write(&self.0, "").unwrap();
        hand_over(&self.0);
        database.sql("SELECT pg_reload_conf()").await;
    }
}

fn archiving(command: &str) -> String {
    format!("archive_mode = on\narchive_command = '{command}'")
}

/// The lineage that the agent begins where there is none: a push ends in the same one.
async fn begin(site: &Site, database: &Database) -> Lineage {
    let facts = server::facts(&database.client().await).await.unwrap();
    let id = LineageId::of_cluster(facts.system_identifier);
    begin_as(id, &site.archive(), &facts).await
}

/// Ends the segment, and says where it ended.
async fn switch(database: &Database) -> Lsn {
    write(database, 0).await;
    database
        .sql("SELECT pg_logical_emit_message(false, 'test', 'end'); SELECT pg_switch_wal()")
        .await;
    ended(database).await
}

/// Where the last whole segment ended: the server itself writes into the next one every few seconds.
async fn ended(database: &Database) -> Lsn {
    let lsn = flushed(database).await;
    Lsn::new(lsn.get() - database.segment_size.offset(lsn))
}

/// The stop LSN of a backup: PostgreSQL itself ends the segment.
async fn backup(database: &Database) -> Lsn {
    let client = database.client().await;
    backup_mode::start(&client, "test", true).await.unwrap();
    backup_mode::stop(&client).await.unwrap().stop_lsn
}

/// Waits until nothing is left to archive: what came from before the first start may be on its way.
fn rest(database: &Database) {
    wait_for("end of archiving", || ready(&database.data()).is_empty());
}

/// Waits until a look finds nothing wrong.
async fn no_trouble(seen: &mut Seen) -> Watched {
    until("end of trouble", seen, |watched| watched.trouble.is_none()).await
}

/// Ends a watcher, and compares what is archived with what the server has.
async fn ends_like(database: &Database, watcher: Running, lineage: &Lineage) -> Contents {
    watcher.end().await.unwrap();
    rest(database);
    same_as_server(database, lineage).await
}

async fn has_slot(database: &Database) -> bool {
    let found = slot::find(&database.client().await, SLOT).await;
    found.unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_archives_under_load_is_seen_and_a_backup_is_covered() {
    let (_server, site) = site("agent-load");
    let database = Database::start(1, &archiving(&site.push_command()));
    let lineage = begin(&site, &database).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    database.pgbench(&["-i", "-s", "1", "-q"]);
    let start = flushed(&database).await;
    database.pgbench(&["-c", "4", "-t", "500"]);
    let stop = backup(&database).await;
    watcher.ship(stop).await;
    assert!(stop > start);
    let watched = no_trouble(&mut seen).await;
    assert!(!watched.holds_slot && !has_slot(&database).await);
    // What was read when all of it was flushed is covered too.
    let mut progress = watcher.progress.clone();
    let covered = progress.wait_for(|progress| progress.covered.is_some());
    tokio::time::timeout(LIMIT, covered).await.unwrap().unwrap();
    let contents = ends_like(&database, watcher, &lineage).await;
    assert_eq!(contents.first_missing(TimelineId::FIRST, start, stop), None);
    assert!(contents.tails.is_empty());
    assert!(
        contents.segments.len() > 10,
        "{:?}",
        contents.segments.len()
    );
    let clock = contents.clocks.first().unwrap();
    assert_eq!(
        contents.first_missing(TimelineId::FIRST, start, clock.lsn),
        None
    );
    assert_eq!(site.identities().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_is_told_and_recovers_by_itself() {
    let (_server, site) = site("agent-fails");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let end = switch(&database).await;
    let failing = until("trouble", &mut seen, |watched| watched.trouble.is_some()).await;
    assert_eq!(reason(Some(&failing)), Some("ArchiveCommandFails"));
    let Some(ArchiverTrouble::Fails(first)) = &failing.trouble else {
        panic!("{failing:?}");
    };
    assert!(first.file.parse::<SegmentName>().is_ok(), "{first:?}");
    let said = failing.trouble.as_ref().unwrap().message(lineage.id());
    assert!(said.contains(&first.file), "{said}");
    assert!(watcher.progress.borrow().durable < Some(end));
    gate.open(&database).await;
    watcher.ship(end).await;
    no_trouble(&mut seen).await;
    ends_like(&database, watcher, &lineage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mode_or_command_nothing_is_watched() {
    let reason_of = |ended: Result<(Running, Seen), Error>| ended.err().map(|error| error.reason());
    let (_server, site) = site("agent-off");
    let off = Database::start(1, "archive_mode = off");
    let lineage = begin(&site, &off).await;
    let opened = Running::watch(&off, &lineage).await;
    assert_eq!(reason_of(opened), Some("ArchiveModeOff"));
    off.append("postgresql.conf", &archiving(""));
    off.stop("fast");
    off.boot();
    let opened = Running::watch(&off, &lineage).await;
    assert_eq!(reason_of(opened), Some("ArchiveCommandNotSet"));

    // It is set, and taken away while it is watched.
    let set = async |command: &str| {
        off.sql(&format!(
            "ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf()"
        ))
        .await;
    };
    set(&site.push_command()).await;
    let (watcher, mut seen) = Running::watch(&off, &lineage).await.unwrap();
    until("look", &mut seen, |watched| watched.trouble.is_none()).await;
    set("").await;
    let ended = tokio::time::timeout(LIMIT, watcher.task).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.reason(), "ArchiveCommandNotSet");
    assert!(error.is_archiving() && !error.is_archive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_goes_once_the_command_brings_what_it_holds() {
    let (_server, site) = site("agent-switch");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    write(&database, 3).await;
    shipper.ship(flushed(&database).await).await;
    shipper.end().await.unwrap();
    let held = slot::find(&database.client().await, SLOT).await.unwrap();
    let restart = held.unwrap().restart_lsn.unwrap();

    write(&database, 2).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let end = switch(&database).await;
    until("failure", &mut seen, |watched| watched.trouble.is_some()).await;
    two_looks(&mut seen).await;
    assert!(has_slot(&database).await, "the command brings nothing");
    assert!(seen.borrow().as_ref().unwrap().holds_slot);

    gate.open(&database).await;
    watcher.ship(end).await;
    until("end of the slot", &mut seen, |watched| !watched.holds_slot).await;
    assert!(!has_slot(&database).await);
    let contents = ends_like(&database, watcher, &lineage).await;
    assert_eq!(
        contents.first_missing(TimelineId::FIRST, restart, end),
        None
    );
}

/// The archiver knows nothing of it until a checkpoint would remove it, which none does while the slot holds it.
#[tokio::test(flavor = "multi_thread")]
async fn wal_from_before_archive_mode_was_on_leaves_no_gap() {
    let (_server, site) = site("agent-before");
    let database = Database::start(1, "archive_mode = off");
    let lineage = begin(&site, &database).await;
    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    write(&database, 2).await;
    shipper.ship(flushed(&database).await).await;
    shipper.end().await.unwrap();
    write(&database, 3).await;
    database.append("postgresql.conf", &archiving(&site.push_command()));
    database.stop("fast");
    database.boot();

    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    assert!(has_slot(&database).await);
    let end = switch(&database).await;
    until("end of the slot", &mut seen, |watched| !watched.holds_slot).await;
    assert!(watcher.progress.borrow().durable < Some(end));
    database
        .sql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT")
        .await;
    watcher.ship(end).await;
    assert!(watcher.notices.try_recv().is_err(), "a gap was told");
    ends_like(&database, watcher, &lineage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_elsewhere_is_told_and_then_a_gap() {
    let (_server, site) = site("agent-elsewhere");
    let database = Database::start(1, &archiving("/bin/true"));
    let lineage = begin(&site, &database).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let from = watcher_begin(&mut watcher).await;
    let to = switch(&database).await;
    let elsewhere = until("trouble", &mut seen, |watched| watched.trouble.is_some()).await;
    assert_eq!(reason(Some(&elsewhere)), Some("ArchivedElsewhere"));
    let said = elsewhere.trouble.unwrap().message(lineage.id());
    assert!(
        said.contains(&format!("`lineage: {}`", lineage.id())),
        "{said}"
    );

    let command = site.push_command();
    database
        .sql(&format!(
            "ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf()"
        ))
        .await;
    let end = switch(&database).await;
    watcher.ship(end).await;
    no_trouble(&mut seen).await;
    let name = SegmentName::containing(TimelineId::FIRST, from, database.segment_size);
    let cause = GapCause::Elsewhere(name);
    assert_eq!(
        watcher.notices.try_recv(),
        Ok(Notice::Gap { from, to, cause })
    );
    watcher.end().await.unwrap();
    rest(&database);
    verified(&lineage).await;

    // What the notice says to do closes it.
    let said = cause.message();
    let status = |ending| format!("pg_wal/archive_status/{name}.{ending}");
    assert!(said.contains(&status("done")), "{said}");
    let holed = lineage.contents().await.unwrap();
    assert_eq!(
        holed.first_missing(TimelineId::FIRST, from, end),
        Some(from)
    );
    let rename = |from, to| std::fs::rename(database.data().join(from), database.data().join(to));
    rename(status("done"), status("ready")).unwrap();
    database.sql("SELECT pg_reload_conf()").await;
    rest(&database);
    let contents = same_as_server(&database, &lineage).await;
    assert_eq!(contents.first_missing(TimelineId::FIRST, from, end), None);
}

/// Where it is before anything came.
async fn watcher_begin(watcher: &mut Running) -> Lsn {
    let progress = watcher
        .progress
        .wait_for(|progress| progress.durable.is_some());
    let progress = tokio::time::timeout(LIMIT, progress).await.unwrap();
    progress.unwrap().durable.unwrap()
}

/// A new timeline begins where the old one was left: what is expected has its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_timeline_is_followed() {
    let (_server, site) = site("agent-timeline");
    let database = Database::start(1, &archiving(&site.push_command()));
    let lineage = begin(&site, &database).await;
    let (mut watcher, _seen) = Running::watch(&database, &lineage).await.unwrap();
    write(&database, 2).await;
    watcher.ship(switch(&database).await).await;
    write(&database, 0).await;
    watcher.end().await.unwrap();

    database.stop("fast");
    database.append("postgresql.conf", "restore_command = 'false'");
    database.write(&database.data().join("recovery.signal"), b"");
    database.boot();
    let promoted = async {
        loop {
            let client = database.client().await;
            let row = client
                .query_typed_one("SELECT pg_is_in_recovery()", &[])
                .await;
            if !row.unwrap().get::<_, bool>(0) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, promoted).await.unwrap();
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let end = switch(&database).await;
    watcher.ship(end).await;
    no_trouble(&mut seen).await;
    assert!(watcher.notices.try_recv().is_err(), "a gap was told");
    watcher.end().await.unwrap();
    rest(&database);
    let second = TimelineId::new(2).unwrap();
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.ranges(second).len(), 1);
    assert!(contents.pieces(second).last().unwrap().to >= end);
    verified(&lineage).await;
}

/// A push puts several at once: one that is there before an earlier one does not count yet, and is no gap.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_ahead_waits_for_what_comes_before() {
    let (_server, site) = site("agent-ahead");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    gate.open(&database).await;
    let from = switch(&database).await;
    rest(&database);
    gate.close();
    for _ in 0..3 {
        switch(&database).await;
    }
    let waiting = ready(&database.data());
    let last = waiting.iter().next_back().unwrap();
    site.push(&database.data(), last).expect(0);
    let ahead = lineage.contents().await.unwrap();
    assert_eq!(
        ahead.whole_end(TimelineId::FIRST, &[]),
        Some(ended(&database).await)
    );

    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    two_looks(&mut seen).await;
    assert_eq!(watcher_begin(&mut watcher).await, from);
    gate.open(&database).await;
    watcher.ship(ended(&database).await).await;
    assert!(watcher.notices.try_recv().is_err(), "a gap was told");
    ends_like(&database, watcher, &lineage).await;
}

/// Where a push cannot know which lineage is meant, the message says what to put into its configuration.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_lineages_the_push_takes_the_one_that_it_is_told() {
    let (_server, site) = site("agent-several");
    let database = Database::start(1, &archiving(&site.push_command()));
    let facts = server::facts(&database.client().await).await.unwrap();
    begin(&site, &database).await;
    let lineage = begin_as(lineage_id(), &site.archive(), &facts).await;
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let end = switch(&database).await;
    let failing = until("trouble", &mut seen, |watched| watched.trouble.is_some()).await;
    assert_eq!(reason(Some(&failing)), Some("ArchiveCommandFails"));
    let said = failing.trouble.unwrap().message(lineage.id());
    let line = format!("lineage: {}", lineage.id());
    assert!(said.contains(&format!("`{line}`")), "{said}");

    site.configure(&line);
    database.sql("SELECT pg_reload_conf()").await;
    watcher.ship(end).await;
    ends_like(&database, watcher, &lineage).await;
}

/// However fast they are pushed, and whether or not an entry was rolled up before it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_more_segments_than_are_rolled_up_together_is_followed() {
    let (_server, site) = site("agent-rolled");
    let gate = Gate::of(&site);
    let database = Database::start(1, &archiving(&gate.command(&site)));
    let lineage = begin(&site, &database).await;
    let switches = "DO $$ BEGIN FOR n IN 1..270 LOOP \
        PERFORM pg_logical_emit_message(false, 'test', 'end'); PERFORM pg_switch_wal(); \
        END LOOP; END $$";
    let (mut watcher, mut seen) = Running::watch(&database, &lineage).await.unwrap();
    let client = database.client().await;
    client.batch_execute(switches).await.unwrap();
    gate.open(&database).await;
    let end = ended(&database).await;
    watcher.ship(end).await;
    no_trouble(&mut seen).await;
    assert!(watcher.notices.try_recv().is_err(), "a gap was told");
    let contents = ends_like(&database, watcher, &lineage).await;
    assert!(contents.segments.len() > 256, "{}", contents.segments.len());
}
