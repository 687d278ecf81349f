//! What users, kills and the network may do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater::api::names;
use highwater_e2e::harness::{
    Database, Kubectl, NetworkCut, condition, crash, has, leftovers, said, until,
};
use serde_json::{Value, json};

use super::{FIRST, LIMIT, failover, row, scenario};

/// Others write to all objects all the time, so that what was read is never what is there.
#[tokio::test(flavor = "multi_thread")]
async fn objects_that_others_change_all_the_time() {
    let fault = json!({"delayBeforeCut": 4000, "delayToReady": 4000});
    row("storm", json!({}), fault, async |mut case| {
        let (kubectl, namespace) = (case.orders.kubectl.clone(), case.orders.namespace.clone());
        let storm = tokio::task::spawn_blocking(move || storm(&kubectl, &namespace));
        let ended = case.end().await?;
        let changes = storm.await??;
        println!("{changes} rounds of changes");
        ensure!(changes >= 3, "only {changes} rounds of changes");
        ensure!(has(&ended, "Completed", "True"), "{}", ended["status"]);
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

/// Changes an annotation of each object until the backup has ended; how often while it was there.
fn storm(kubectl: &Kubectl, namespace: &str) -> Result<u32> {
    let (begin, mut rounds) = (Instant::now(), 0);
    loop {
        ensure!(begin.elapsed() < LIMIT, "the backup does not end");
        let mark = format!("test.highwater.dev/round={rounds}");
        for kind in ["pgb", "pgx", "volumesnapshots", "pgp"] {
            let annotate = ["annotate", "--overwrite", "--all", kind, &mark];
            // Nothing may be there yet.
            let _ = kubectl.run(&[&["-n", namespace], &annotate[..]].concat());
        }
        for content in kubectl.snapshot_contents(namespace).unwrap_or_default() {
            let name = content["metadata"]["name"].as_str().unwrap_or_default();
            let annotate = [
                "annotate",
                "--overwrite",
                "volumesnapshotcontent",
                name,
                &mark,
            ];
            let _ = kubectl.run(&annotate);
        }
        let backups = kubectl.list(namespace, "pgb").unwrap_or_default();
        let over = |it: &Value| has(it, "Completed", "True") || has(it, "Completed", "False");
        if backups.iter().any(over) {
            return Ok(rounds);
        }
        rounds += u32::from(!backups.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_a_user_deletes_while_it_is_cut() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 10_000});
    row("deleted-snapshot", json!({}), fault, async |mut case| {
        let name = case.snapshot().await?;
        let (kubectl, namespace) = case.place();
        let delete = ["delete", "volumesnapshot", &name, "--wait=false"];
        kubectl.run(&[&["-n", namespace], &delete[..]].concat())?;
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_deleted_while_its_snapshot_is_uploaded() {
    let fault = json!({"delayToReady": 15_000});
    row("deleted-claim", json!({}), fault, async |mut case| {
        let stopped = |it: &Value| has(it, "Stopped", "True");
        case.state("the end of backup mode", stopped).await?;
        let (kubectl, namespace) = case.place();
        let delete = ["delete", "pvc", "data-orders-0", "--wait=false"];
        kubectl.run(&[&["-n", namespace], &delete[..]].concat())?;
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_scaled_away_in_backup_mode() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 10_000});
    row("scaled-away", json!({}), fault, async |mut case| {
        case.snapshot().await?;
        case.orders.scale(0).await?;
        let void = |it: &Value| has(it, "Session", "False");
        case.state("the attempt is void", void).await?;
        case.orders.scale(1).await?;
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_a_snapshot_is_cut() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 8000});
    row("agent-killed", json!({}), fault, async |mut case| {
        case.snapshot().await?;
        let (kubectl, namespace) = case.place();
        crash::kill(kubectl, namespace, &failover::agent(&case.orders)?, "agent")?;
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_while_a_snapshot_is_cut() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 8000});
    row("database-killed", json!({}), fault, async |mut case| {
        case.snapshot().await?;
        let (kubectl, namespace) = case.place();
        crash::kill(kubectl, namespace, "orders-0", "postgres")?;
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

/// The database does not hear that the session is over, and ends it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_between_agent_and_database() {
    let fault = json!({"snapshot": FIRST, "delayBeforeCut": 60_000});
    row("network-cut", json!({}), fault, async |mut case| {
        case.snapshot().await?;
        let client = case.orders.connect().await?;
        let open =
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'highwater-backup'";
        failover::until_async("backup mode", &client, open).await?;
        let host = case.orders.address()?;
        let (kubectl, namespace) = case.place();
        let agent = failover::agent(&case.orders)?;
        let cut = NetworkCut::begin(kubectl, namespace, (&agent, "agent"), &host)?;
        let begin = Instant::now();
        failover::until_async("its end", &client, &open.replace("= 1", "= 0")).await?;
        println!(
            "the database ended it after {} s",
            begin.elapsed().as_secs()
        );
        ensure!(begin.elapsed() < Duration::from_secs(60), "too late");
        let void = |it: &Value| has(it, "Session", "False");
        case.state("the attempt is void", void).await?;
        drop(cut);
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

/// All that a backup needs of it is known by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_scaled_away_after_the_backups_end() {
    row(
        "gone-after-stop",
        json!({}),
        json!({"delayToReady": 20_000}),
        async |mut case| {
            let archived = |it: &Value| has(it, "WalArchived", "True");
            case.state("WAL is archived", archived).await?;
            case.orders.scale(0).await?;
            let ended = case.end().await?;
            ensure!(has(&ended, "Completed", "True"), "{}", ended["status"]);
            case.orders.scale(1).await?;
            case.completes(1..=1).await.map(drop)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_deleted_in_backup_mode() {
    let fault = json!({"delayBeforeCut": 10_000});
    row("cancelled", json!({}), fault, async |case| {
        case.snapshot().await?;
        let (kubectl, namespace) = case.place();
        let uid = |it: &Value| it["metadata"]["uid"].clone();
        let [cancelled] = &kubectl.list(namespace, "pgb")?[..] else {
            bail!("there is not one PgBackup");
        };
        kubectl.run(&["-n", namespace, "delete", "pgb", "--all", "--wait=false"])?;
        let client = case.orders.connect().await?;
        let none =
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'highwater-backup'";
        failover::until_async("the end of backup mode", &client, none).await?;
        // The first backup of a database is taken all the same: by another object of that name.
        until("the PgBackup gone", LIMIT, || {
            let backups = kubectl.list(namespace, "pgb")?;
            let gone = backups.iter().all(|it| uid(it) != uid(cancelled));
            Ok(gone.then_some(()))
        })
        .await?;
        leftovers::none(&case.orders).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protection_that_ends_in_backup_mode() {
    let (fault, deadlines) = (json!({"delayBeforeCut": 10_000}), json!({"backup": "40s"}));
    row("unprotected", deadlines, fault, async |mut case| {
        case.snapshot().await?;
        case.orders.annotate("highwater.dev/policy", "")?;
        let void = |it: &Value| {
            let session = said(it, "Session");
            session.is_some_and(|session| session["reason"] == "ProtectionEnded")
        };
        case.state("the attempt is void", void).await?;
        let reasons = [
            "ProtectionNotActive",
            "ProtectionNotFound",
            "ProtectionDeleted",
        ];
        case.fails(&reasons, "").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_that_are_asked_for_at_once_go_one_after_the_other() {
    let fault = json!({"delayBeforeCut": 2000});
    row("queue", json!({}), fault, async |mut case| {
        case.end().await?;
        let (kubectl, namespace) = case.place();
        let asked: String = ["one", "two", "three"]
            .map(|name| backup(namespace, name))
            .concat();
        kubectl.apply(&asked)?;
        let backups = until("all four", LIMIT, || {
            let backups = kubectl.list(namespace, "pgb")?;
            let whole = backups.iter().all(|it| has(it, "Completed", "True"));
            Ok((whole && backups.len() == 4).then_some(backups))
        })
        .await?;
        let time = |it: &Value, field: &str| {
            let time = it["status"]["session"][field].as_str();
            time.map(str::to_owned).context("no session")
        };
        let mut sessions = Vec::new();
        for it in &backups {
            sessions.push((time(it, "startedAt")?, time(it, "stoppedAt")?));
        }
        sessions.sort();
        let apart = sessions.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        ensure!(apart, "two at once: {sessions:?}");
        leftovers::none(&case.orders).await
    })
    .await;
}

/// A PgBackup that somebody asks for.
fn backup(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: highwater.dev/v1alpha1\nkind: PgBackup\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{protection: orders}}\n"
    )
}

/// It is neither used nor deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_somebody_else_that_has_the_name_of_ours() {
    scenario("name-taken", async |deployment, namespace| {
        let (kubectl, namespace) = (&deployment.kubectl, namespace.as_str());
        let orders = Database::create(&deployment, namespace, "orders", "highwater-btrfs").await?;
        kubectl.apply(&backup(namespace, "one"))?;
        let one = kubectl
            .get(namespace, "pgb", "one")?
            .context("no PgBackup")?;
        let uid = one["metadata"]["uid"].as_str().context("no UID")?;
        let name = names::volume_snapshot("one", uid, 1, "data-orders-0");
        kubectl.apply(&format!(
            "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{source: {{persistentVolumeClaimName: data-orders-0}}}}\n"
        ))?;
        orders.annotate("highwater.dev/policy", "gold")?;
        let completed = ("Completed", "True");
        let one = condition(kubectl, namespace, ("pgb", "one"), completed, LIMIT).await?;
        let attempt = &one["status"]["attempt"]["number"];
        ensure!(*attempt == 2, "attempt {attempt}");
        let theirs = kubectl.get(namespace, "volumesnapshot", &name)?;
        let going = theirs.context("it is gone")?["metadata"]["deletionTimestamp"].clone();
        ensure!(going.is_null(), "it is being deleted");
        Ok(())
    })
    .await;
}
