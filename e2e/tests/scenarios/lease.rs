//! Of the controller's replicas one works: another takes over from one that was killed, and not from one that lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use highwater::{
    clock::{Clock, SystemClock},
    controller::lease::{DURATION, Election, Lost},
};
use highwater_e2e::harness::{Deployment, condition, crash, until};
use kube::Client;

use super::setup::{scenario, scenario_alone};

/// The longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

fn election<'a>(client: &Client, namespace: &str, me: &str, clock: &'a dyn Clock) -> Election<'a> {
    Election::new(client.clone(), namespace, "test", me.to_owned(), clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_killed_holder_is_taken_and_of_a_living_one_is_not() {
    scenario("lease", async |_, namespace| {
        // A second installation is refused, and the first one stays.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_default().await?;
        let clock = SystemClock;
        let mut first = election(&client, &namespace, "first", &clock);
        first.acquire(|_| ()).await;

        let mut second = election(&client, &namespace, "second", &clock);
        tokio::select! {
            lost = first.hold() => anyhow::bail!("the holder lost it: {lost}"),
            () = second.acquire(|_| ()) => anyhow::bail!("taken from a holder that renews"),
            () = tokio::time::sleep(DURATION + Duration::from_secs(3)) => {}
        }

        // From here on the first says nothing.
        let begin = Instant::now();
        tokio::time::timeout(LIMIT, second.acquire(|_| ())).await?;
        let silent = begin.elapsed();
        anyhow::ensure!(
            silent + Duration::from_secs(3) > DURATION,
            "taken after {silent:?}"
        );

        // It comes back, and stops at once.
        let lost = tokio::time::timeout(LIMIT, first.hold()).await?;
        anyhow::ensure!(
            matches!(lost, Lost::Taken { ref holder, .. } if holder == "second"),
            "{lost}"
        );

        // A release needs no silence.
        second.release().await;
        let mut third = election(&client, &namespace, "third", &clock);
        tokio::time::timeout(LIMIT, third.acquire(|_| ())).await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_replica_works_when_the_holder_was_killed() {
    scenario_alone("takeover", async |deployment, namespace| {
        let first = holder(&deployment)?;
        let begin = Instant::now();
        // The kubelet starts it again at once and goes on as the holder, which is as good; only one that keeps dying
        // leaves the lease to the other.
        let second = until("another holder", LIMIT, || {
            // Between two lives there is nothing to kill.
            let _ = crash::kill(
                &deployment.kubectl,
                "highwater-system",
                &first,
                "controller",
            );
            Ok(Some(holder(&deployment)?).filter(|now| *now != first))
        })
        .await?;
        println!(
            "{first} was killed, {second} took over after {:?}",
            begin.elapsed()
        );

        let set = format!(
            "{{name: idle, namespace: {namespace}, annotations: {{highwater.dev/policy: gold}}}}"
        );
        deployment
            .kubectl
            .apply(&STATEFUL_SET.replace("METADATA", &set))?;
        let active = ("Active", "False");
        let made = condition(
            &deployment.kubectl,
            &namespace,
            ("pgx", "idle"),
            active,
            LIMIT,
        )
        .await?;
        let said = made["status"]["conditions"].to_string();
        anyhow::ensure!(said.contains("CredentialsNotFound"), "{said}");
        Ok(())
    })
    .await;
}

/// What a controller that works says something about.
const STATEFUL_SET: &str = "apiVersion: apps/v1
kind: StatefulSet
metadata: METADATA
spec:
  serviceName: idle
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: postgres, image: none}]}
";

/// The pod that holds the lease.
fn holder(deployment: &Deployment) -> Result<String> {
    let lease = deployment
        .kubectl
        .get("highwater-system", "lease", "highwater-controller")?;
    let holder = lease
        .as_ref()
        .and_then(|lease| lease["spec"]["holderIdentity"].as_str());
    Ok(holder.context("nobody holds the lease")?.to_owned())
}
