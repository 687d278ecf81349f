//! One life of controller, agent and backup, in which something breaks.

use std::time::Duration;

use anyhow::{Context as _, Result};
use highwater::{
    api::PgBackup,
    clock::{Clock, SystemClock},
};
use highwater_e2e::flow::{
    Lifeline,
    wire::{Cut, Victim},
};
use jiff::SignedDuration;
use kube::ResourceExt;

use super::{
    archive,
    judge::{End, Expected, judge, until_holds},
    point::{Back, Counts, Crash, Place},
    programs::{Agent, Controller},
    site::Site,
};

/// For a backup that has time, and for one that must fail if what broke comes back after it.
const LONG: u64 = 3600;
const SHORT: u64 = 5;

/// What came of it.
pub struct Outcome {
    pub end: End,
    /// What was to break broke.
    pub reached: bool,
}

impl Crash {
    fn expected(self) -> Expected {
        let agents = match self.place {
            // A controller's death costs no attempt.
            Place::ControllerRequest => 0,
            Place::AgentRequest | Place::AgentStatement | Place::Connection => 1,
        };
        let (seconds, may_fail) = match self.back {
            Back::AtOnce => (LONG, false),
            Back::AfterDeadline => (SHORT, true),
        };
        Expected {
            attempts: 1 + agents,
            unheard: usize::from(agents > 0),
            seconds,
            may_fail,
        }
    }

    fn line(self, place: Place) -> Lifeline {
        match place == self.place {
            true => Lifeline::ending_at_request(self.number, self.death),
            false => Lifeline::endless(),
        }
    }

    fn cut(self) -> Option<Cut> {
        let victim = match self.place {
            Place::ControllerRequest | Place::AgentRequest => return None,
            Place::AgentStatement => Victim::Program,
            Place::Connection => Victim::Connection,
        };
        Some(Cut {
            number: self.number,
            death: self.death,
            victim,
        })
    }
}

/// From the backup's creation to its deletion.
pub async fn tell(site: &Site, backup: &PgBackup, expected: Expected) -> Result<End> {
    let decided = site.decided(backup).await?;
    let end = judge(site, &decided, expected).await?;
    let name = decided.name_any();
    site.fixture.delete_backup(&name).await?;
    site.fixture.gone(&name).await?;
    until_holds("nothing of a deleted backup is left", || {
        site.fixture.require_nothing_left(&decided)
    })
    .await?;
    archive::require_uncatalogued(site, &decided).await?;
    Ok(end)
}

/// Lives, dies, and lives again.
pub async fn live(site: &Site, crash: Crash) -> Result<Outcome> {
    let expected = crash.expected();
    site.begin(expected.seconds).await?;
    let controller = Controller::start(site, crash.line(Place::ControllerRequest)).await?;
    let agent = Agent::start(site, crash.line(Place::AgentRequest), crash.cut()).await?;
    let backup = site.ask().await?;
    let mut story = std::pin::pin!(tell(site, &backup, expected));
    let ended = tokio::select! {
        end = &mut story => Some(end?),
        () = controller.lifeline.death() => None,
        () = agent.lifeline.death() => None,
    };
    if let Some(end) = ended {
        let reached = agent.wire.record.was_cut();
        controller.kill().await;
        agent.kill().await;
        return Ok(Outcome { end, reached });
    }
    let again = async {
        if crash.back == Back::AfterDeadline {
            pass_deadline(&backup, expected).await?;
        }
        anyhow::Ok(match crash.place {
            Place::ControllerRequest => {
                controller.kill().await;
                (Controller::start(site, Lifeline::endless()).await?, agent)
            }
            Place::AgentRequest | Place::AgentStatement | Place::Connection => {
                agent.kill().await;
                let agent = Agent::start(site, Lifeline::endless(), None).await?;
                (controller, agent)
            }
        })
    };
    let (end, (controller, agent)) = tokio::try_join!(story, again)?;
    controller.kill().await;
    agent.kill().await;
    Ok(Outcome { end, reached: true })
}

/// Nothing but time decides it.
async fn pass_deadline(backup: &PgBackup, expected: Expected) -> Result<()> {
    let created = backup.metadata.creation_timestamp.as_ref();
    let created = created.context("no time of creation")?.0;
    // The API server's times are whole seconds.
    let deadline = created + SignedDuration::from_secs(i64::try_from(expected.seconds)? + 1);
    let left = deadline.duration_since(SystemClock.now());
    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    Ok(())
}

/// A life in which nothing breaks, and how much it takes.
pub async fn rehearse(site: &Site) -> Result<Counts> {
    let never = Crash {
        place: Place::Connection,
        number: usize::MAX,
        death: highwater_e2e::flow::Death::BeforeAnswer,
        back: Back::AtOnce,
    };
    let Outcome { end, reached } = live(site, never).await?;
    anyhow::ensure!(end == End::Completed && !reached, "{end}");
    let life = site.life();
    let sent = |lines: &[Lifeline]| lines.iter().map(|it| it.sent().len()).sum();
    Ok(Counts {
        controller_requests: sent(&life.controllers),
        agent_requests: sent(&life.agents),
        agent_statements: life.wires.iter().map(|it| it.statements().len()).sum(),
    })
}
