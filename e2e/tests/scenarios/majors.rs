//! Other majors of PostgreSQL: the ledger through backup, restore and drill, with the server that the image has.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Ledger, Writer, condition, integrity, publish, story,
};

use super::setup::scenario;

/// The oldest and the newest; `make e2e-all` names all.
const SAMPLE: &str = "14 18";

#[tokio::test(flavor = "multi_thread")]
async fn every_major_restores_what_was_acknowledged() {
    scenario("majors", async |deployment, namespace| {
        let majors = std::env::var("HIGHWATER_MAJORS").unwrap_or_else(|_| SAMPLE.to_owned());
        let told = majors
            .split_whitespace()
            .map(|major| tell(&deployment, &namespace, major));
        futures::future::try_join_all(told).await.map(|_| ())
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str, major: &str) -> Result<()> {
    let mut deployment = deployment.clone();
    deployment.images.postgres = publish::load_postgres(major)?;
    let (kubectl, source) = (&deployment.kubectl, format!("pg{major}"));
    let database = Database::create(&deployment, namespace, &source, "highwater-btrfs").await?;
    let client = database.connect().await?;
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    ensure!(version.split('.').next() == Some(major), "it is {version}");
    let address = database.address()?;
    let mut pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    database.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, &source).await?;
    story::commits(&writer, 200).await?;
    let (target, last) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 100).await?;
    client.batch_execute("DELETE FROM ledger").await?;

    let restored = format!("{source}-restored");
    let from = (restored.as_str(), source.as_str());
    let time = format!("{{time: \"{target}\"}}");
    story::restore(kubectl, namespace, from, &restored, &time).await?;
    let copy = Database::existing(kubectl, namespace, &restored);
    let found = Ledger::check(&copy.connect().await?, last, last).await?;
    println!("PostgreSQL {version}: rows 1 to {found}, {last} were acknowledged");
    integrity::amcheck(&copy).await?;
    integrity::checksums(&copy, &deployment.images.postgres).await?;
    drill(&deployment, namespace, &source).await?;
    story::still_loads(&mut pgbench)?;
    writer.stop().await?;
    Ok(())
}

/// By the programs that the image has.
async fn drill(deployment: &Deployment, namespace: &str, source: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let name = format!("{source}-drill");
    let source = format!("{{protection: {source}}}");
    let verify =
        "verify: {checks: [Amcheck, Checksums], sql: \"SELECT count(*) >= 0 FROM ledger\"}";
    story::request(kubectl, namespace, (&name, &source), verify)?;
    let ended = condition(
        kubectl,
        namespace,
        ("pgr", &name),
        ("Completed", "True"),
        story::LIMIT,
    );
    let ended = ended.await?;
    let checks = ended["status"]["progress"]["checks"].as_array();
    let checks = checks.context("no checks")?;
    ensure!(checks.len() == 4, "{checks:?}");
    Ok(())
}
