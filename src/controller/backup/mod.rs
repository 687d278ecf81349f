//! The backup controller: one PgBackup from its creation to `Completed`, and its snapshots until they are gone.
//!
//! It never speaks to a database or a bucket: the agent does, and the two meet in the status (see [`crate::api`]). A
//! pass observes ([`observe`]), parses it ([`validate`]), decides ([`plan`]), has at most one effect on the
//! backup ([`act`]) and applies its part of the status if that changed ([`report`]). Whether there is anything to do it
//! sees by what the watches told ([`told`]), and reads what its plan must rest on ([`depth`]).
//!
//! What cannot begin waits with `Accepted=False` until `deadlines.backup` ([`door`]), for its turn ([`turn`]), and for a
//! place among the backups of other databases ([`at_once`]); what begins is one attempt with names of its own ([`attempt`]), of one member ([`instance`]); an attempt that is given up is void for ever, and the
//! janitor ([`sweep`]) removes its snapshots while the next one runs. Deadlines count from times that the API holds, never
//! from memory.

mod act;
mod at_once;
mod attempt;
mod build;
mod depth;
mod door;
mod error;
mod evidence;
mod group;
mod instance;
#[cfg(test)]
mod model;
mod observe;
#[cfg(test)]
mod pass_tests;
mod plan;
#[cfg(test)]
mod properties;
mod redact;
mod report;
mod retained;
mod rules;
mod setback;
mod sweep;
mod told;
mod turn;
mod validate;
mod volumes;
mod wake;
mod waves;

use std::{sync::Arc, time::Duration};

use futures::{Stream, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource,
    runtime::{
        Config as RuntimeConfig, WatchStreamExt, applier,
        controller::Action,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event, watcher},
    },
};

use self::{
    at_once::AtOnce,
    depth::Depth,
    observe::{Observed, observe},
    plan::{Awaited, Plan, State, Step, plan},
    told::{Told, Trust, Written},
    wake::Wake,
};
use super::{Context, drive, error_policy};
use crate::{
    api::{PgBackup, PgBackupPolicy, PgProtection, annotations, conditions},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};

pub use at_once::Limits;
pub use error::Error;

/// How many backups are worked on at once.
const CONCURRENCY: u16 = 16;
/// The longest that a waiting backup is left alone: what no watch tells (classes, policies, claims) is then read again.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// The longest that one is left alone which has not begun, and waits for what a watch tells.
const DOOR_REST: Duration = Duration::from_secs(300);
/// The same where something outside of every watch must change first.
const UNWATCHED_REST: Duration = Duration::from_secs(10);
/// The same while an attempt by a group waits: nothing watches groups.
const GROUP_REST: Duration = Duration::from_secs(2);
/// The same while snapshots are going.
const SWEEP_REST: Duration = Duration::from_secs(5);

/// What the passes over all backups share.
struct Backups {
    ctx: Arc<Context>,
    wake: Arc<Wake>,
    at_once: Arc<AtOnce>,
    told: Told,
}

/// Runs until its watches end.
pub async fn run(ctx: Arc<Context>) {
    let (reader, writer) = reflector::store();
    let own = watcher(ctx.watched::<PgBackup>(), watcher::Config::default())
        .default_backoff()
        .modify(slim)
        .reflect(writer);
    let wake = Arc::new(Wake::default());
    let at_once = Arc::new(AtOnce::new(ctx.backups_at_once));
    let own = news(own, about_backups(&ctx, &wake, &at_once, reader.clone()));
    let (told, related) = related(&ctx, &wake, reader.clone());
    let backups = Arc::new(Backups {
        ctx: ctx.clone(),
        wake,
        at_once,
        told,
    });
    let queue = stream::select(own, related);
    let passes = applier(
        |backup, backups| Box::pin(reconcile(backup, backups)),
        |backup, error, backups: Arc<Backups>| error_policy(backup, error, backups.ctx.clone()),
        backups,
        reader,
        Box::pin(queue),
        RuntimeConfig::default().concurrency(CONCURRENCY),
    );
    drive("backup", ctx, passes).await;
}

/// Which backups an event of a backup is about: itself, and those that waited for it.
fn about_backups(
    ctx: &Context,
    wake: &Arc<Wake>,
    at_once: &Arc<AtOnce>,
    backups: Store<PgBackup>,
) -> impl Fn(&Event<PgBackup>) -> Vec<ObjectRef<PgBackup>> + Send + use<> {
    let (clock, wake, at_once) = (ctx.clock.clone(), wake.clone(), at_once.clone());
    move |event| {
        let mut about = match event {
            Event::Apply(backup) => {
                at_once.note(backup);
                let mut about = wake.of_backup(backup);
                about.push(ObjectRef::from_obj(backup));
                about
            }
            Event::InitApply(backup) => {
                at_once.note(backup);
                return vec![ObjectRef::from_obj(backup)];
            }
            Event::Delete(backup) => {
                at_once.forget(backup);
                wake.behind(backup)
            }
            Event::Init => return Vec::new(),
            Event::InitDone => {
                at_once.keep(|backup| backups.get(backup).is_some());
                Vec::new()
            }
        };
        about.extend(at_once.next(clock.now()));
        about
    }
}

/// History must cost no memory: of what is finished nothing is written any more.
fn slim(backup: &mut PgBackup) {
    backup.metadata.managed_fields = None;
    if observe::is_finished(backup)
        && let Some(status) = &mut backup.status
    {
        status.stateful_set = None;
    }
}

type Wakened = Result<ObjectRef<PgBackup>, watcher::Error>;

/// What the watches tell, and the backups that events of snapshots, contents, protections and policies are about.
fn related(
    ctx: &Context,
    wake: &Arc<Wake>,
    backups: Store<PgBackup>,
) -> (Told, impl Stream<Item = Wakened> + Send + use<>) {
    let ours = watcher::Config::default().labels(annotations::BACKUP_UID_LABEL);
    let everything = watcher::Config::default;
    let (snapshots, of_snapshots) = touched(watched(ctx.watched::<VolumeSnapshot>(), ours), |it| {
        Wake::of_snapshot(it)
    });
    let (by_content, by_protection, by_policy) = (wake.clone(), wake.clone(), wake.clone());
    let contents = Api::<VolumeSnapshotContent>::all(ctx.client.clone());
    let contents = watcher(contents, everything()).default_backoff();
    let (contents, of_contents) = touched(contents.modify(told::slim_content), move |it| {
        by_content.of_content(it)
    });
    let (protections, of_protections) = touched(
        ctx.decoded::<PgProtection, _>(drop).modify(told::slim),
        move |it| by_protection.of_protection(it),
    );
    let known = protections.clone();
    let (policies, of_policies) = touched(
        ctx.decoded::<PgBackupPolicy, _>(drop).modify(told::slim),
        move |it| by_policy.of_policy(it, &known.state()),
    );
    let told = Told {
        backups,
        protections,
        policies,
        snapshots,
        contents,
        written: Written::default(),
        trust: Trust::default(),
    };
    let wakened = stream::select(of_snapshots, of_contents);
    let others = stream::select(of_protections, of_policies);
    (told, stream::select(wakened, others))
}

fn watched<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    watcher(api, config).default_backoff().modify(told::slim)
}

fn touched<K, I, F, S>(
    events: S,
    about: F,
) -> (
    Store<K>,
    impl Stream<Item = Wakened> + Send + use<K, I, F, S>,
)
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    I: IntoIterator<Item = ObjectRef<PgBackup>>,
    I::IntoIter: Send,
    F: Fn(&K) -> I + Send + 'static,
    S: Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
{
    let (store, writer) = reflector::store();
    let stream = news(events.reflect(writer), move |event| match event {
        Event::Apply(it) | Event::InitApply(it) | Event::Delete(it) => {
            about(it).into_iter().collect()
        }
        Event::Init | Event::InitDone => Vec::new(),
    });
    (store, stream)
}

/// What the events are about. Of a list only when all of it is there: the store has the old state until then.
fn news<K, I>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    about: impl Fn(&Event<K>) -> I + Send,
) -> impl Stream<Item = Wakened> + Send
where
    K: Send,
    I: IntoIterator<Item = ObjectRef<PgBackup>>,
{
    let mut listed = Vec::new();
    events
        .map_ok(move |event| {
            let mut about: Vec<_> = about(&event).into_iter().collect();
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(_) => listed.append(&mut about),
                Event::InitDone => about.append(&mut listed),
                Event::Apply(_) | Event::Delete(_) => {}
            }
            stream::iter(about.into_iter().map(Ok))
        })
        .try_flatten()
}

/// One pass over one backup.
async fn reconcile(cached: Arc<PgBackup>, backups: Arc<Backups>) -> Result<Action, Error> {
    if is_settled(&cached) && !backups.may_have_labelled(&cached) {
        backups.forget(&cached);
        return Ok(Action::await_change());
    }
    let passed = pass(&cached, &backups).await;
    if passed.as_ref().is_err_and(Error::is_outdated) {
        backups.told.trust.lose(&cached);
    }
    match passed {
        Err(error) if error.is_overtaken() => Ok(Action::requeue(Duration::from_millis(20))),
        other => other,
    }
}

/// Completed at the first attempt, and no claim has a group's label: nothing can be left over, and nothing changes any more.
/// The cache may be old, but a terminal status is a fixpoint.
fn is_settled(cached: &PgBackup) -> bool {
    cached.metadata.deletion_timestamp.is_none()
        && cached.status.as_ref().is_some_and(|status| {
            conditions::is_true(&status.conditions, conditions::COMPLETED)
                && status
                    .attempt
                    .as_ref()
                    .is_some_and(|attempt| attempt.number == 1)
                && status.group.as_ref().is_none_or(|group| !group.labelled)
        })
}

async fn pass(cached: &PgBackup, backups: &Backups) -> Result<Action, Error> {
    let ctx = &backups.ctx;
    let now = ctx.clock.now();
    backups.wake.note(cached);
    let decided = backups.decide(cached, now).await;
    if decided.is_err() {
        backups.at_once.doubt(cached);
    }
    let Some((observed, state, plan)) = decided? else {
        backups.forget(cached);
        return Ok(Action::await_change());
    };
    backups.wake.note(&observed.backup);
    let taken = turn::act::take(&ctx.client, &observed, plan).await;
    if !matches!(taken, Ok((_, None))) {
        backups.at_once.leave(&observed.backup);
    }
    let (plan, refused) = taken?;
    report::tell_of_left(ctx, &observed, &state, &plan).await;
    let outcome = act::act(&ctx.client, &observed, &plan).await;
    let retained = outcome.as_ref().map_or(&[][..], |acted| &acted.retained);
    let (observed, state, plan) = retained::go_on((observed, state, plan), retained, now);
    let own = report::own_status(&observed, &state, &plan, &outcome, now);
    if let Some(applied) = report::report(ctx, &observed, &own).await? {
        backups.wrote(cached, &observed, applied);
    }
    if let Some(marked) = outcome?.backup {
        backups.wrote(cached, &observed, marked);
    }
    act::tidy(&ctx.client, &observed, &plan).await?;
    if let Some(error) = refused {
        return Err(error);
    }
    if plan.step == Step::Done || plan.step == Step::Release {
        backups.forget(&observed.backup);
    }
    let by_group = group::recorded(&observed.backup).is_some();
    let action = requeue(&plan, &state, by_group, now);
    let lapse = observed.full.as_ref();
    let lapse = lapse.and_then(|_| backups.at_once.next_lapse(now));
    Ok(match (action == Action::await_change(), lapse) {
        (false, Some(lapse)) => Action::requeue(left(now, lapse, DOOR_REST)),
        (true, _) | (_, None) => action,
    })
}

impl Backups {
    /// The plan, with what it rests on. `None`: the backup is gone.
    async fn decide(
        &self,
        cached: &PgBackup,
        now: Timestamp,
    ) -> Result<Option<(Observed, State, Plan)>, Error> {
        let mut known = self.told.observe(cached, now);
        let mut depth = match known {
            Some(_) => Depth::Told,
            None => Depth::Everything,
        };
        loop {
            if known.is_none() {
                self.told.trust.read(cached, now);
            }
            let observed = match known.take() {
                Some(observed) => observed,
                None => match observe(&self.ctx.client, &self.told, cached, depth).await? {
                    Some(observed) => observed,
                    None => return Ok(None),
                },
            };
            let state = validate::validate(&observed, now);
            let plan = plan(&state, now);
            let needs = plan.needs(&observed.backup);
            if needs <= depth {
                return Ok(Some(self.in_turn((observed, state, plan), now)));
            }
            depth = needs;
        }
    }

    /// The same, unless an attempt is to begin and backups of other databases leave no place for it.
    fn in_turn(
        &self,
        (mut observed, mut state, mut plan): (Observed, State, Plan),
        now: Timestamp,
    ) -> (Observed, State, Plan) {
        self.at_once.note(&observed.backup);
        match &plan.step {
            Step::Accept(proposal) => {
                observed.full = self
                    .at_once
                    .enter(&observed.backup, &proposal.set, now)
                    .err();
            }
            Step::AddFinalizer
            | Step::Hold(_)
            | Step::CreateSnapshots(_)
            | Step::LabelClaims(_)
            | Step::CreateGroup(_)
            | Step::Await { .. }
            | Step::Retain(_)
            | Step::RetainGroup(_)
            | Step::Complete(_)
            | Step::Abandon(_)
            | Step::Fail(_)
            | Step::Discard
            | Step::Release
            | Step::Done => self.at_once.leave(&observed.backup),
        }
        if observed.full.is_some() {
            state = validate::validate(&observed, now);
            plan = self::plan::plan(&state, now);
        }
        (observed, state, plan)
    }

    /// Whether a pass of ours was overtaken, perhaps while it put a group's label on claims, from which another's took it off.
    fn may_have_labelled(&self, cached: &PgBackup) -> bool {
        group::recorded(cached).is_some() && self.told.trust.is_lost(cached)
    }

    fn wrote(&self, cached: &PgBackup, observed: &Observed, written: PgBackup) {
        self.wake.note(&written);
        self.told.written.note(cached, &observed.backup, written);
    }

    fn forget(&self, backup: &PgBackup) {
        self.wake.forget(backup);
        self.at_once.forget(backup);
        self.told.written.forget(backup);
        self.told.trust.forget(backup);
    }
}

/// From `now` to `until`, at most `longest`. The deadline itself is in it: a moment later is early enough.
fn left(now: Timestamp, until: Timestamp, longest: Duration) -> Duration {
    let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    left.min(longest) + Duration::from_millis(5)
}

/// When the next pass is due if no watch asks for it before.
fn requeue(plan: &Plan, state: &State, by_group: bool, now: Timestamp) -> Action {
    let left = |until: Timestamp, longest: Duration| left(now, until, longest);
    let rest = match &plan.step {
        Step::Done | Step::Release | Step::Complete(_) => None,
        Step::Hold(rejection) => Some(match rejection.is_watched() {
            true => left(state.deadline(), DOOR_REST),
            false => left(state.deadline(), UNWATCHED_REST),
        }),
        Step::Await { what, until } => Some(match what {
            // That the protection ends no watch tells.
            Awaited::Gone | Awaited::Uncatalogued => SWEEP_REST,
            Awaited::Door => left(*until, DOOR_REST),
            // That nobody acts on a snapshot no watch tells.
            Awaited::Cut if !by_group => left(*until, report::SILENT.unsigned_abs()),
            Awaited::Turn
            | Awaited::Session
            | Awaited::Cut
            | Awaited::Stop
            | Awaited::Label
            | Awaited::Wal
            | Awaited::Ready
            | Awaited::Catalogue
            | Awaited::Restored => match by_group {
                true => GROUP_REST,
                false => left(*until, LONGEST_REST),
            },
        }),
        Step::CreateSnapshots(_) | Step::CreateGroup(_) => Some(SWEEP_REST),
        Step::AddFinalizer
        | Step::Accept(_)
        | Step::LabelClaims(_)
        | Step::Retain(_)
        | Step::RetainGroup(_)
        | Step::Abandon(_)
        | Step::Discard
        | Step::Fail(_) => Some(Duration::ZERO),
    };
    let sweeping = !plan.sweep.is_empty();
    match (rest, sweeping) {
        (Some(rest), true) => Action::requeue(rest.min(SWEEP_REST)),
        (None, true) => Action::requeue(SWEEP_REST),
        (Some(rest), false) => Action::requeue(rest),
        (None, false) => Action::await_change(),
    }
}
