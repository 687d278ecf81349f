//! What a completed restore says that it took: of each part, of the whole, to its protection, and as a number.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Deployment, Kubectl, measure};
use serde_json::Value;

/// The parts that every restore has.
const PARTS: [&str; 6] = [
    "planSeconds",
    "volumesSeconds",
    "podSeconds",
    "prepareSeconds",
    "replaySeconds",
    "firstQuerySeconds",
];

/// `restore` of the protection `orders` has told all of it. Returns the sum.
pub fn told(deployment: &Deployment, namespace: &str, restore: &Value) -> Result<f64> {
    let phases = &restore["status"]["phases"];
    let seconds = |name: &str| {
        let seconds = phases[name].as_f64();
        seconds.with_context(|| format!("no {name} in {phases}"))
    };
    let parts = PARTS.iter().map(|name| seconds(name));
    let sum: f64 = parts.collect::<Result<Vec<f64>>>()?.into_iter().sum();
    let total = seconds("totalSeconds")?;
    ensure!((sum - total).abs() < 0.01, "{sum} of {phases}");
    // PostgreSQL is started and found promoted within it, on one clock.
    let replay = restore["status"]["progress"]["replaySeconds"].as_f64();
    let replay = replay.context("no replaySeconds")?;
    ensure!(
        (seconds("replaySeconds")? - replay).abs() < 0.5,
        "{restore}"
    );
    println!("{}: {phases}", restore["metadata"]["name"]);
    of_protection(&deployment.kubectl, namespace, restore, total)?;
    counted(deployment)?;
    Ok(total)
}

/// The whole, by the API server's clock: in whole seconds at both ends.
pub fn is_the_whole(restore: &Value, total: f64) -> Result<()> {
    let time = |text: &Value| -> Result<jiff::Timestamp> {
        Ok(text.as_str().context("no time")?.parse()?)
    };
    let conditions = restore["status"]["conditions"].as_array();
    let mut conditions = conditions.context("no conditions")?.iter();
    let completed = conditions.find(|it| it["type"] == "Completed");
    let completed = completed.context("not completed")?;
    let whole = time(&completed["lastTransitionTime"])?
        .duration_since(time(&restore["metadata"]["creationTimestamp"])?)
        .as_secs_f64();
    ensure!((whole - total).abs() < 2.0, "{total} s of {whole} s");
    Ok(())
}

fn of_protection(kubectl: &Kubectl, namespace: &str, restore: &Value, total: f64) -> Result<()> {
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let protection = protection.context("no protection")?;
    let last = &protection["status"]["lastRestore"];
    let name = &restore["metadata"]["name"];
    ensure!(last["restore"] == *name, "{last}, and not {name}");
    ensure!(last["seconds"].as_f64() == Some(total), "{last}");
    for part in PARTS {
        ensure!(
            last["phases"][part] == restore["status"]["phases"][part],
            "{last}"
        );
    }
    let drill = restore["spec"]["verify"].is_object();
    ensure!(last["drill"] == drill && last["at"].is_string(), "{last}");
    Ok(())
}

/// By whichever controller holds the lease.
fn counted(deployment: &Deployment) -> Result<()> {
    let controller = "app.kubernetes.io/component=controller";
    let told = measure::metrics(&deployment.kubectl, &deployment.system, controller)?.join("\n");
    for phase in ["plan", "replay", "total"] {
        let line = format!("highwater_restore_phase_seconds_count{{phase=\"{phase}\"}} ");
        ensure!(told.contains(&line), "no {line}");
    }
    Ok(())
}
