//! One thing after another is killed, at random, until the time is over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use highwater_e2e::{
    devcluster::{Names, Snapshotter},
    harness::{
        figures::{aimed, is_due, pause},
        prey::{self, Frozen, Prey},
        random::Random,
    },
};

use super::{Run, failover, sets::Set};

/// The object store's data live as long as its pod, so kubelet starts it again by itself: at once, if it ran for so long.
const STORE_RESTS: Duration = Duration::from_secs(660);

/// Who is killed; by how often each stands here.
const VICTIMS: [Victim; 24] = {
    use Victim::{Agent, Controller, Member, ObjectStore, Recovery, Snapshots, Standby};
    const SIDECAR: Victim = Snapshots(Snapshotter::Sidecar);
    const CONTROLLER: Victim = Snapshots(Snapshotter::Controller);
    [
        Controller,
        Controller,
        Controller,
        Controller,
        Agent,
        Agent,
        Agent,
        Agent,
        Agent,
        Agent,
        Member,
        Member,
        Member,
        Member,
        Standby,
        Standby,
        SIDECAR,
        SIDECAR,
        CONTROLLER,
        CONTROLLER,
        Recovery,
        Recovery,
        Recovery,
        ObjectStore,
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The replica that holds the lease.
    Controller,
    Agent,
    /// The only member of a set.
    Member,
    Standby,
    Snapshots(Snapshotter),
    Recovery,
    /// Killed, or stopped for a while.
    ObjectStore,
}

struct Chaos<'a> {
    run: &'a Run,
    sets: &'a [Arc<Set>],
    random: Random,
    names: Names,
    store_killed: Option<Instant>,
}

/// Kills until the time is over.
pub async fn run(run: &Run, sets: &[Arc<Set>], seed: u64) -> Result<()> {
    let mut chaos = Chaos {
        run,
        sets,
        random: Random::new(seed),
        names: Names::entered()?,
        store_killed: None,
    };
    let floor = run.floor;
    while let Some(left) = run.left() {
        let chance = u32::try_from(chaos.random.below(100))?;
        let pause = pause(left, run.figures().killed(), aimed(floor.kills), chance);
        tokio::time::sleep(pause.min(left)).await;
        if run.left().is_none() {
            break;
        }
        let elapsed = run.begin.elapsed();
        let failovers = run.figures().failovers;
        if is_due(elapsed, run.whole, failovers, aimed(floor.failovers))
            && chaos.fails_over().await?
        {
            continue;
        }
        let victim = chaos.random.one_of(&VICTIMS).copied();
        chaos.kill(victim.unwrap_or(Victim::Agent)).await?;
    }
    for set in sets.iter().filter(|set| set.pods.len() > 1) {
        failover::whole(set).await?;
    }
    Ok(())
}

impl Chaos<'_> {
    /// Some set with more than one member, if each of its members streams.
    async fn fails_over(&mut self) -> Result<bool> {
        let Some(set) = self.some_set(true) else {
            return Ok(false);
        };
        let done = failover::fail_over(self.run, &set).await?;
        if done {
            self.run.figures().failovers += 1;
            self.counts("primary", &set.database.name);
        }
        Ok(done)
    }

    async fn kill(&mut self, victim: Victim) -> Result<()> {
        let (kubectl, namespace) = (&self.run.kubectl, self.run.namespace.as_str());
        match victim {
            Victim::Controller => {
                let prey = prey::controller(kubectl).await?;
                self.replaces("controller", &prey)
            }
            Victim::Agent => self.kills_an_agent().await,
            Victim::Member => {
                let set = self.some_set(false);
                self.kills_member("postgres", set.as_deref(), |_, _| true)
                    .await
            }
            Victim::Standby => {
                let set = self.some_set(true);
                self.kills_member("standby", set.as_deref(), |set, pod| {
                    set.primary.get().is_some_and(|primary| primary != pod)
                })
                .await
            }
            Victim::Snapshots(program) => {
                program.kill(&self.names)?;
                self.counts(program.name(), "");
                Ok(())
            }
            Victim::Recovery => match prey::recovery(kubectl, namespace) {
                Ok(prey) => {
                    prey.kill()?;
                    self.counts("recovery", "");
                    Ok(())
                }
                // None runs.
                Err(_) => self.kills_an_agent().await,
            },
            Victim::ObjectStore => self.takes_the_store_away().await,
        }
    }

    async fn kills_an_agent(&mut self) -> Result<()> {
        let Some(set) = self.random.one_of(self.sets).cloned() else {
            return Ok(());
        };
        let prey = prey::agent(&set.database).await?;
        self.replaces("agent", &prey)
    }

    /// One that is ready: a member that is made anew would be left half made.
    async fn kills_member(
        &mut self,
        what: &'static str,
        set: Option<&Set>,
        may: impl Fn(&Set, &str) -> bool,
    ) -> Result<()> {
        let Some(set) = set else { return Ok(()) };
        let pods: Vec<_> = set.pods.iter().filter(|pod| may(set, pod)).collect();
        let Some(pod) = self.random.one_of(&pods) else {
            return Ok(());
        };
        if failover::kill_member(self.run, pod)? {
            self.counts(what, pod);
        }
        Ok(())
    }

    async fn takes_the_store_away(&mut self) -> Result<()> {
        let Ok(store) = prey::object_store(&self.run.kubectl) else {
            return Ok(());
        };
        let rested = self
            .store_killed
            .is_none_or(|killed| killed.elapsed() > STORE_RESTS);
        if rested {
            store.kill()?;
            self.store_killed = Some(Instant::now());
            self.counts("object store", "");
            return Ok(());
        }
        let outage = Duration::from_secs(5 + self.random.below(20));
        self.run
            .tell(&format!("the object store is away for {outage:?}"));
        let frozen = Frozen::freeze(&store)?;
        // The outage itself.
        tokio::time::sleep(outage).await;
        drop(frozen);
        self.run.figures().outages += 1;
        Ok(())
    }

    fn replaces(&self, what: &'static str, prey: &Prey) -> Result<()> {
        prey.kill()?;
        prey.replace(&self.run.kubectl)?;
        self.counts(what, "");
        Ok(())
    }

    fn counts(&self, what: &'static str, whose: &str) {
        *self.run.figures().kills.entry(what).or_default() += 1;
        self.run.tell(&format!("killed: {what} {whose}"));
    }

    fn some_set(&mut self, streams: bool) -> Option<Arc<Set>> {
        let sets = self.sets.iter();
        let sets: Vec<_> = sets
            .filter(|set| (set.pods.len() > 1) == streams)
            .cloned()
            .collect();
        self.random.one_of(&sets).cloned()
    }
}
