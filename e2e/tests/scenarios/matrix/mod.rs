//! What a driver, a user or a network may do to a backup, one thing each: at the end it is completed and restores, or it has
//! failed for the reason that it says, and nothing is left of what does not count.

mod between;
mod drivers;
mod groups;
mod objects;
mod others;

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Faults, Kubectl, Watching, Writer, has, leftovers, said, story, until,
};
use serde_json::{Value, json};

use super::{
    failover, members,
    setup::{scenario, scenario_alone},
};

/// The longest that a backup with a fault in its way may take.
const LIMIT: Duration = Duration::from_secs(150);
/// The tail interval, and what a busy machine takes to ship a tail: what is older is in the archive.
const TAILS: Duration = Duration::from_secs(20);
/// The VolumeSnapshot of the first attempt, and of no other.
const FIRST: &str = "*-1-data-orders-0";

/// A database whose first backup meets a fault.
struct Case {
    orders: Database,
    writer: Writer,
    watching: Watching,
}

impl Case {
    /// Under load, with these deadlines in its policy; `fault` is there before it is protected.
    async fn begin(
        deployment: &Deployment,
        namespace: &str,
        deadlines: Value,
        fault: Value,
    ) -> Result<(Self, Faults)> {
        let kubectl = &deployment.kubectl;
        let policy = json!({"spec": {"deadlines": deadlines}});
        kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
        let fault = Faults::set(&within(namespace, fault))?;
        let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
        let writer = Writer::start(&orders.address()?).await?;
        let watching = Watching::start(kubectl, namespace, &["pgb"])?;
        orders.annotate("highwater.dev/policy", "gold")?;
        let case = Self {
            orders,
            writer,
            watching,
        };
        Ok((case, fault))
    }

    fn place(&self) -> (&Kubectl, &str) {
        (&self.orders.kubectl, &self.orders.namespace)
    }

    /// Waits for a state of the backup.
    async fn state(&mut self, what: &str, is: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.watching.wait(what, LIMIT, is).await
    }

    /// Waits until the VolumeSnapshot of the first attempt is there; its name.
    async fn snapshot(&self) -> Result<String> {
        let (kubectl, namespace) = self.place();
        until("the first VolumeSnapshot", LIMIT, || {
            let snapshots = kubectl.list(namespace, "volumesnapshots")?;
            let mut names = snapshots
                .iter()
                .filter_map(|it| it["metadata"]["name"].as_str());
            Ok(names.next().map(str::to_owned))
        })
        .await
    }

    async fn end(&mut self) -> Result<Value> {
        let ended = |it: &Value| has(it, "Completed", "True") || has(it, "Completed", "False");
        self.state("the backup's end", ended).await
    }

    /// It completes in one of these attempts, nothing else is left, and it restores.
    async fn completes(&mut self, attempts: RangeInclusive<u64>) -> Result<Value> {
        let ended = self.end().await?;
        let conditions = &ended["status"]["conditions"];
        ensure!(has(&ended, "Completed", "True"), "{conditions}");
        let number = ended["status"]["attempt"]["number"].as_u64();
        let number = number.context("no attempt")?;
        ensure!(attempts.contains(&number), "attempt {number}: {conditions}");
        leftovers::none(&self.orders).await?;
        let shipped = Instant::now().checked_sub(TAILS).context("no such time")?;
        let least = self.writer.ledger.acknowledged_by(shipped);
        let found = story::latest_holds(&self.orders, &self.writer.ledger, least).await?;
        println!("completed in attempt {number}; restored rows 1 to {found}, {least} are owed");
        Ok(ended)
    }

    /// It fails for one of these reasons, says `why`, and nothing is left.
    async fn fails(&mut self, reasons: &[&str], why: &str) -> Result<()> {
        let ended = self.end().await?;
        ensure!(has(&ended, "Completed", "False"), "it completed");
        let completed = said(&ended, "Completed").context("no Completed")?;
        let reason = completed["reason"].as_str().unwrap_or_default();
        let message = completed["message"].as_str().unwrap_or_default();
        ensure!(
            reasons.contains(&reason) && message.contains(why),
            "{reason}: {message}"
        );
        println!("failed: {reason}: {message}");
        leftovers::none(&self.orders).await
    }
}

/// `fault`, for the database's volume in this namespace alone.
fn within(namespace: &str, mut fault: Value) -> Value {
    fault["volume"] = json!(format!("{namespace}/data-orders-0"));
    if let Some(snapshot) = fault["snapshot"].as_str().map(str::to_owned) {
        fault["snapshot"] = json!(format!("{namespace}/{snapshot}"));
    }
    fault
}

fn seconds_in_backup_mode(backup: &Value) -> Result<f64> {
    let seconds = backup["status"]["session"]["backupModeSeconds"].as_f64();
    seconds.context("the session does not say how long backup mode was")
}

/// A row in which nobody does anything but the driver.
async fn row(
    name: &str,
    deadlines: Value,
    fault: Value,
    judge: impl AsyncFnOnce(Case) -> Result<()>,
) {
    scenario(name, async |deployment, namespace| {
        let (case, _fault) = Case::begin(&deployment, &namespace, deadlines, fault).await?;
        judge(case).await
    })
    .await;
}
