//! Looks after every member: who is a standby that a backup may be of, and what replication slots hold back. Standbys hold
//! what the primary holds, so that after a failover nothing is missing; and none holds more than the policy's ceiling,
//! whatever the archive does.

mod plan;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::watch;

pub use self::plan::Limits;
use self::plan::{Level, Seen, Step, fill, held, plan};
use super::{
    config::{Config, Wanted},
    shared::Shared,
};
use crate::{
    api::{
        Member, OnSlotLimit, SizeText, Transport,
        conditions::{self, SLOT_WITHIN_CEILING, Status, WAL_ARCHIVING},
    },
    controller::context::Chain,
    postgres::{
        Lsn, SegmentSize, TimelineId,
        session::{Client, ConnectError, QueryError},
        slot, standby, wal_reader,
    },
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// How long one member may take.
const EACH: Duration = Duration::from_secs(10);

/// Runs until the process is to end.
pub async fn run(shared: Arc<Shared>) {
    let mut wanted = shared.wanted.clone();
    // Who takes writes may be another one: then its standbys are others too.
    let mut link = shared.link.subscribe();
    let mut sessions = Sessions::new();
    let mut last = None;
    loop {
        match wanted.borrow_and_update().clone() {
            Wanted::Protect(config) => last = Some(config),
            // What was made is looked after as long as nobody says otherwise.
            Wanted::Nothing(_) => {}
            Wanted::Unprotect(_) => {
                last = None;
                sessions.clear();
            }
        }
        if let Some(config) = &last {
            tokio::select! {
                () = look(&shared, config, &mut sessions, &wanted) => {}
                () = shared.stop.cancelled() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = link.changed() => {}
            changed = wanted.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Sessions by the pod's UID.
type Sessions = HashMap<String, Client>;

/// What became of one member.
struct Looked {
    pod: String,
    uid: String,
    session: Client,
    /// How full its slot is, if it has one.
    level: Option<Level>,
    /// It let go of WAL that may not be archived.
    gave_way: bool,
    in_recovery: bool,
    /// What it streams.
    streams: Option<TimelineId>,
    holds: bool,
}

/// No look.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

async fn look(
    shared: &Shared,
    config: &Config,
    sessions: &mut Sessions,
    wanted: &watch::Receiver<Wanted>,
) {
    // Who drops the slots of a database that is not protected any more waits for this look, and none begins after it.
    let _slots = shared.slots.lock().await;
    if matches!(*wanted.borrow(), Wanted::Unprotect(_)) {
        return;
    }
    let database = shared.reporter.read().database;
    let Some(size) = database.map(|database| database.segment_size) else {
        return;
    };
    // While nothing is shipped, the position is of an earlier time, and perhaps of another timeline.
    let shipping = shared.link.borrow().is_some();
    let archived = shared.progress.borrow().durable.filter(|_| shipping);
    // From before the look: a slot that is made meanwhile may not be seen.
    let relied_on = shared.holding.borrow().clone();
    let looks = config.members.iter().map(|member| {
        let session = sessions.remove(&member.uid).filter(|s| !s.is_closed());
        let one = one(shared, config, member, session, archived, size);
        async move { (member, tokio::time::timeout(EACH, one).await) }
    });
    let mut looked = Vec::new();
    for (member, result) in join_all(looks).await {
        match result {
            Ok(Ok(member)) => looked.push(member),
            // Who ships says more of a primary that does not answer; a standby may come and go.
            Ok(Err(error)) => {
                tracing::debug!(pod = member.pod, error = %Chain(&error), "failed to look after the replication slot");
            }
            Err(_) => tracing::debug!(pod = member.pod, "no answer about the replication slot"),
        }
    }
    if looked
        .iter()
        .any(|it| !it.holds && relied_on.as_ref() == Some(&it.uid))
    {
        // Whoever ships notices at the next whole segment, or never while the archive is away: it begins anew.
        shared
            .holding
            .send_if_modified(|holding| holding.take().is_some());
    }
    told(shared, config, &looked).await;
    *sessions = looked
        .into_iter()
        .map(|member| (member.uid, member.session))
        .collect();
}

async fn one(
    shared: &Shared,
    config: &Config,
    member: &Member,
    session: Option<Client>,
    archived: Option<Lsn>,
    size: SegmentSize,
) -> Result<Looked, LookError> {
    let client = match session {
        Some(client) => client,
        None => shared.login.connect(&member.address).await?,
    };
    let seen = see(&client, &shared.slot).await?;
    let streams = match seen.in_recovery {
        true => standby::streams(&client).await?,
        false => None,
    };
    let step = plan(&seen, &config.slots, archived, size);
    act(&client, &shared.slot, step).await?;
    let bytes = held(&seen);
    shared.metrics.slot(&member.pod, bytes);
    if !matches!(step, Step::Leave | Step::Advance(_)) {
        tracing::info!(
            pod = member.pod,
            slot = shared.slot,
            held = bytes,
            ?step,
            "replication slot"
        );
    }
    Ok(Looked {
        pod: member.pod.clone(),
        uid: member.uid.clone(),
        session: client,
        level: fill(&seen, &config.slots, size),
        gave_way: matches!(step, Step::LetGo(_) | Step::Renew),
        in_recovery: seen.in_recovery,
        streams,
        holds: match step {
            Step::Create | Step::Renew | Step::Advance(_) | Step::LetGo(_) => true,
            Step::Drop => false,
            Step::Leave => seen.slot.is_some(),
        },
    })
}

async fn see(client: &Client, name: &str) -> Result<Seen, QueryError> {
    let wal_reader::End {
        in_recovery,
        lsn,
        bounded,
    } = wal_reader::end(client).await?;
    Ok(Seen {
        in_recovery,
        end: lsn,
        bounded,
        slot: slot::find(client, name).await?,
    })
}

async fn act(client: &Client, name: &str, step: Step) -> Result<(), QueryError> {
    match step {
        Step::Leave => {}
        Step::Create => drop(slot::create(client, name).await?),
        Step::Advance(to) | Step::LetGo(to) => drop(slot::advance(client, name, to).await?),
        Step::Renew => {
            slot::drop(client, name).await?;
            slot::create(client, name).await?;
        }
        Step::Drop => drop(slot::drop(client, name).await?),
    }
    Ok(())
}

/// Says it in status, and in an event where WAL was given up.
async fn told(shared: &Shared, config: &Config, looked: &[Looked]) {
    let holds = |pod: &str| {
        let member = looked.iter().find(|member| member.pod == pod)?;
        Some(member.in_recovery && member.holds)
    };
    let pods = config.members.iter().map(|member| member.pod.as_str());
    shared.reporter.edit(|report| {
        let writes = report.primary.as_ref().map(|primary| primary.timeline);
        let streaming = looked.iter().map(|it| (it.pod.as_str(), it.streams));
        report.standbys = followers(streaming, writes);
        if let Some(wal) = &mut report.wal {
            let before = std::mem::take(&mut wal.standby_slots);
            wal.standby_slots = standbys(pods, &before, holds);
        }
    });
    ceiling(shared, config, looked);
    for member in looked.iter().filter(|member| member.gave_way) {
        let note = format!(
            "replication slot {} on {} held back slotCeiling ({}) of WAL, or PostgreSQL had given it up: it holds from now on only, and PostgreSQL may remove what is not archived. Highwater takes a new backup when WAL is archived again",
            shared.slot,
            member.pod,
            SizeText::bytes(config.slots.ceiling),
        );
        tracing::error!("{note}");
        shared.metrics.error("SlotCeilingReached");
        let about = &shared.about;
        shared
            .events
            .warning(about, "SlotCeilingReached", note)
            .await;
    }
}

/// The standbys that stream on the timeline that is written.
fn followers<'a>(
    streaming: impl Iterator<Item = (&'a str, Option<TimelineId>)>,
    writes: Option<TimelineId>,
) -> Vec<String> {
    let mut pods: Vec<_> = streaming
        .filter(|(_, streams)| streams.is_some() && *streams == writes)
        .map(|(pod, _)| pod.to_owned())
        .collect();
    pods.sort();
    pods
}

/// The standbys with a slot: those that were seen to have one, and those that had and could not be asked now. A member that
/// was scaled away has its slot in its volume, and holds WAL with it when it returns.
fn standbys<'a>(
    pods: impl Iterator<Item = &'a str>,
    before: &[String],
    holds: impl Fn(&str) -> Option<bool>,
) -> Vec<String> {
    let mut found: Vec<String> = pods
        .filter(|pod| holds(pod).unwrap_or_else(|| before.iter().any(|had| had == pod)))
        .map(str::to_owned)
        .collect();
    let away = before.iter().filter(|had| holds(had).is_none());
    let away: Vec<_> = away.filter(|had| !found.contains(had)).cloned().collect();
    found.extend(away);
    found
}

/// Says how full the fullest slot is, or that none is held and none is to be.
fn ceiling(shared: &Shared, config: &Config, looked: &[Looked]) {
    // Of no member nothing is known.
    let all = !looked.is_empty() && looked.len() == config.members.len();
    let (status, reason, message) = match looked.iter().filter_map(|member| member.level).max() {
        Some(worst) => {
            let said = judge(worst, &config.slots, &shared.slot);
            // The fullest may be one that does not answer.
            let known = said.0 == Status::False || all;
            if !known || (worst != Level::Reached && gave_way(shared)) {
                return;
            }
            said
        }
        None if all && config.transport == Transport::ArchiveCommand && !gave_way(shared) => {
            let message = "no replication slot is held: PostgreSQL keeps what its archiver has not archived, without a bound";
            (Status::True, "NoSlot", message.to_owned())
        }
        None => return,
    };
    let reporter = &shared.reporter;
    reporter.condition(SLOT_WITHIN_CEILING, status, reason, message);
}

/// A slot gave way, and WAL is not archived yet: that must be seen until it is.
fn gave_way(shared: &Shared) -> bool {
    let conditions = shared.reporter.read().conditions;
    let says = |type_, test: fn(&Condition) -> bool| {
        conditions::find(&conditions, type_).is_some_and(test)
    };
    says(SLOT_WITHIN_CEILING, |c| c.reason == "SlotCeilingReached")
        && !says(WAL_ARCHIVING, |c| c.status == Status::True.as_str())
}

/// What the fullest slot means. The message holds nothing that moves.
fn judge(worst: Level, limits: &Limits, slot: &str) -> (Status, &'static str, String) {
    let ceiling = SizeText::bytes(limits.ceiling);
    match (worst, limits.on_limit) {
        (Level::Within, _) => (
            Status::True,
            "WithinCeiling",
            format!("replication slot {slot} holds back less than half of slotCeiling ({ceiling})"),
        ),
        (Level::Half, _) => (
            Status::False,
            "HalfOfCeiling",
            format!(
                "replication slot {slot} holds back half of slotCeiling ({ceiling}) of WAL or more: see why WAL is not archived, and whether the disk has room"
            ),
        ),
        (Level::Reached, OnSlotLimit::ProtectDatabase) => (
            Status::False,
            "SlotCeilingReached",
            format!(
                "replication slot {slot} held back slotCeiling ({ceiling}) of WAL and let go of it: WAL that is not archived may be lost to the archive"
            ),
        ),
        (Level::Reached, OnSlotLimit::ProtectArchive) => (
            Status::False,
            conditions::SLOT_OVER_CEILING,
            format!(
                "replication slot {slot} holds back slotCeiling ({ceiling}) of WAL or more, and keeps it as the policy's onSlotLimit says: the disk may fill up"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_is_away_keeps_its_slot() {
        let before = ["b".to_owned(), "c".to_owned(), "d".to_owned()];
        let seen = |pod: &str| match pod {
            "a" => Some(true),
            "b" => Some(false),
            _ => None,
        };
        let found = standbys(["a", "b", "c", "e"].into_iter(), &before, seen);
        assert_eq!(found, ["a", "c", "d"]);
    }

    #[test]
    fn a_standby_follows_on_the_timeline_that_is_written() {
        let second = TimelineId::new(2);
        let seen = [
            ("c", second),
            ("primary", None),
            ("behind", Some(TimelineId::FIRST)),
            ("a", second),
        ];
        let found = |writes| followers(seen.into_iter(), writes);
        assert_eq!(found(second), ["a", "c"]);
        assert!(found(None).is_empty(), "nobody knows who writes");
    }
}
