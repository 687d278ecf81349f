//! Two controllers at once: one that was held up, and does not know that it lost its lease, goes on beside its successor.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use highwater_e2e::flow::{Lifeline, Sent};
use http::Method;
use kube::ResourceExt;

use super::{
    archive,
    crash::Outcome,
    fixture::VOLUMES,
    judge::{Expected, judge, require_told_once, until_holds},
    point::Resumes,
    programs::{Agent, Controller},
    site::Site,
};

/// How long a program asks nothing before what it did counts as all.
const QUIET: Duration = Duration::from_millis(200);
/// The successor's requests after which the first goes on beside it: its watches begin with some.
const FIRST: usize = 8;
const SPREAD: usize = 16;

/// Neither costs an attempt, or a second session.
const EXPECTED: Expected = Expected {
    attempts: 1,
    unheard: 0,
    seconds: 3600,
    may_fail: false,
};

/// The first is held up at request `number`; the second takes over.
pub async fn live(site: &Site, number: usize, resumes: Resumes) -> Result<Outcome> {
    site.begin(EXPECTED.seconds).await?;
    let first = Controller::start(site, Lifeline::pausing_at_request(number)).await?;
    let agent = Agent::start(site, Lifeline::endless(), None).await?;
    let line = first.lifeline.clone();
    let told = tell(site, &line);
    let second = async {
        first.lifeline.paused().await;
        let second = Controller::start(site, Lifeline::endless()).await?;
        if resumes == Resumes::Beside {
            second.lifeline.has_sent(FIRST + number % SPREAD).await;
            first.lifeline.resume();
        }
        anyhow::Ok(second)
    };
    let mut told = std::pin::pin!(told);
    let (outcome, second) = tokio::select! {
        outcome = &mut told => (outcome?, None),
        second = second => {
            let second = second?;
            (told.await?, Some(second))
        }
    };
    first.kill().await;
    agent.kill().await;
    if let Some(second) = second {
        second.kill().await;
    }
    Ok(outcome)
}

/// From the backup's creation to its deletion; where the first still waits, it goes on after each.
async fn tell(site: &Site, first: &Lifeline) -> Result<Outcome> {
    let backup = site.ask().await?;
    let backup = site.decided(&backup).await?;
    let end = judge(site, &backup, EXPECTED).await?;
    goes_on(first).await;
    judge(site, &backup, EXPECTED)
        .await
        .context("after the first controller went on")?;
    require_made_once(site)?;
    require_told_once(site, &backup).await?;
    let name = backup.name_any();
    site.fixture.delete_backup(&name).await?;
    site.fixture.gone(&name).await?;
    goes_on(first).await;
    require_made_once(site)?;
    until_holds("nothing of a deleted backup is left", || {
        site.fixture.require_nothing_left(&backup)
    })
    .await?;
    archive::require_uncatalogued(site, &backup).await?;
    let reached = site.life().controllers.len() > 1;
    Ok(Outcome { end, reached })
}

/// Lets it go on, until it has nothing more to ask.
async fn goes_on(line: &Lifeline) {
    line.resume();
    let (mut known, mut since) = (line.sent().len(), Instant::now());
    while since.elapsed() < QUIET {
        tokio::time::sleep(QUIET / 10).await;
        let sent = line.sent().len();
        if sent != known || line.on_their_way() > 0 {
            (known, since) = (sent, Instant::now());
        }
    }
}

/// Each VolumeSnapshot was created by one of them, once.
fn require_made_once(site: &Site) -> Result<()> {
    let is_creation = |sent: &Sent| {
        sent.method == Method::POST
            && sent.path.ends_with("/volumesnapshots")
            && sent.answer == Some(Some(201))
    };
    let lines = site.life().controllers.clone();
    let made = lines.iter().flat_map(Lifeline::sent);
    let made = made.filter(is_creation).count();
    ensure!(made == VOLUMES, "{made} VolumeSnapshots were created");
    Ok(())
}
