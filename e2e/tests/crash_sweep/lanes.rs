//! The sweep: several sites at once take points from one list.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use highwater::clock::{Clock, SystemClock};
use highwater_e2e::{
    devcluster::Raised,
    flow::Lifeline,
    harness::random::{Random, seed},
};
use kube::Client;

use super::{
    archive,
    crash::{self, Outcome},
    fixture::define_kinds,
    judge::End,
    lease,
    point::{Counts, Point},
    site::Site,
};

/// Sites at once: a life waits more than it works.
const LANES: usize = 4;
/// Points where not all are asked for.
const SAMPLE: usize = 6;
/// So many failures say enough.
const ENOUGH: usize = 8;

/// What came of all points.
#[derive(Default)]
struct Tally {
    ends: BTreeMap<End, usize>,
    /// Lives that ended before the point was reached.
    outlived: usize,
    failures: Vec<String>,
}

struct Shared {
    client: Client,
    /// Namespaces are called after this.
    run: String,
    points: Mutex<VecDeque<Point>>,
    tally: Mutex<Tally>,
}

fn lock<T>(it: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A site, and how much a life takes on it.
async fn prepare(client: Client, namespace: String) -> Result<(Site, Counts)> {
    let site = Site::new(client, &namespace).await?;
    let counts = crash::rehearse(&site).await;
    let counts = match counts {
        Ok(counts) => counts,
        Err(error) => return Err(error.context(site.told().await)),
    };
    Ok((site, counts))
}

/// The points, in an order that is drawn.
fn drawn(counts: Counts) -> Result<VecDeque<Point>> {
    if let Ok(point) = std::env::var("HIGHWATER_POINT") {
        return Ok([point.parse()?].into());
    }
    let mut random = Random::new(seed_said());
    let mut points = counts.points();
    let mut drawn = VecDeque::new();
    while let Ok(most @ 1..) = u64::try_from(points.len()) {
        let at = usize::try_from(random.below(most))?;
        drawn.push_back(points.swap_remove(at));
    }
    if std::env::var_os("HIGHWATER_SWEEP").is_none() {
        drawn.truncate(SAMPLE);
    }
    Ok(drawn)
}

fn seed_said() -> u64 {
    let seed = seed();
    println!("HIGHWATER_SEED={seed}");
    seed
}

/// All of it.
pub async fn sweep() -> Result<()> {
    let begin = Instant::now();
    let client = Lifeline::endless().client().await?;
    define_kinds(&client).await?;
    // They are not to be what all lanes wait for.
    let _raised = Raised::begin()?;
    let run = format!("sweep-{:x}", SystemClock.now().as_millisecond());
    let sites = (0..LANES).map(|lane| prepare(client.clone(), format!("{run}-{lane}")));
    let ready = try_join_all(sites).await?;
    let counts = ready.first().context("no lane")?.1;
    println!("{counts:?} after {} s", begin.elapsed().as_secs());
    let points = drawn(counts)?;
    let count = points.len();
    let shared = Shared {
        client,
        run,
        points: Mutex::new(points),
        tally: Mutex::default(),
    };
    let lanes = ready.into_iter().enumerate();
    let lanes = lanes.map(|(lane, (site, _))| work(&shared, lane, site));
    try_join_all(lanes).await?;
    let tally = std::mem::take(&mut *lock(&shared.tally));
    tally.told(count, begin)
}

impl Tally {
    fn told(self, count: usize, begin: Instant) -> Result<()> {
        let Self {
            ends,
            outlived,
            failures,
        } = self;
        let covered: usize = ends.values().sum();
        println!(
            "{covered} of {count} points covered, {outlived} outlived, {} failed, in {} s:",
            failures.len(),
            begin.elapsed().as_secs()
        );
        for (end, count) in &ends {
            println!("{count:>5} {end}");
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        ensure!(covered > 0, "nothing broke");
        Ok(())
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome.reached {
            true => *self.ends.entry(outcome.end).or_default() += 1,
            false => self.outlived += 1,
        }
    }
}

/// One lane: point after point. Where one fails, the next is tried on a new site.
async fn work(shared: &Shared, lane: usize, mut site: Site) -> Result<()> {
    let mut sites = 1;
    loop {
        let enough = lock(&shared.tally).failures.len() >= ENOUGH;
        let next = lock(&shared.points).pop_front().filter(|_| !enough);
        let Some(point) = next else { break };
        let begin = Instant::now();
        let outcome = match point {
            Point::Crash(crash) => crash::live(&site, crash).await,
            Point::Lease { number, resumes } => lease::live(&site, number, resumes).await,
        };
        let millis = begin.elapsed().as_millis();
        let error = match outcome {
            Ok(outcome) => {
                let reached = if outcome.reached { "" } else { " (outlived)" };
                println!("{point}: {}{reached}, {millis} ms", outcome.end);
                lock(&shared.tally).take(outcome);
                continue;
            }
            Err(error) => error,
        };
        let told = format!(
            "HIGHWATER_POINT='{point}': {error:#}\n{}",
            site.told().await
        );
        println!("{told}");
        lock(&shared.tally).failures.push(told);
        let namespace = format!("{}-{lane}-{sites}", shared.run);
        sites += 1;
        site = prepare(shared.client.clone(), namespace).await?.0;
    }
    archive::verify(&site)
        .await
        .context("the archive of all lives")?;
    site.close().await
}
