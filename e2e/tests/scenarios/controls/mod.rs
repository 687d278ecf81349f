//! Negative controls: what docs/design.md, section 4, says must never happen is done on purpose, past the checks that stand in
//! its way, and what judges restores and leftovers must see it. One database and three backups serve all of them.

mod cuts;
mod oracles;
mod wal;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use highwater_e2e::harness::{Database, Deployment, Writer, bucket, by_hand, story};
use serde_json::Value;

use super::{setup::scenario, volumes::TABLESPACE};

const LIMIT: Duration = Duration::from_secs(180);
/// Rows that fill more than two pages of the table, and more than one of its index.
const ROWS: i64 = 600;

/// The ledger lies on the volume that is harmed.
const LEDGER: [&str; 2] = [
    TABLESPACE,
    "CREATE TABLE ledger (n bigint PRIMARY KEY USING INDEX TABLESPACE fast, \
     at timestamptz NOT NULL DEFAULT clock_timestamp()) TABLESPACE fast",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_must_never_happen_is_seen_when_it_does() {
    scenario("controls", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../../manifests/postgres-volumes.yaml");
    let class = "highwater-btrfs-immediate";
    let orders = Database::create_as(deployment, namespace, "orders", class, shape).await?;
    let client = orders.connect().await?;
    for statement in LEDGER {
        client.batch_execute(statement).await?;
    }
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let old = story::first_backup(kubectl, namespace, "orders").await?;
    oracles::what_is_left(&orders).await?;
    oracles::what_is_told(deployment, &orders)?;
    story::commits(&writer, ROWS).await?;

    let apart = cuts::apart(&orders, &writer).await?;
    for _ in 0..3 {
        story::commits(&writer, 50).await?;
        client.batch_execute("SELECT pg_switch_wal()").await?;
    }
    let late = cuts::late(&orders, &writer).await?;
    let (end, _) = story::between_commits(&writer, &client).await?;
    story::commits(&writer, 50).await?;
    let rows = writer.stop().await?.acknowledged();
    wal::shipped(&orders, &client).await?;

    let ground = Ground::of(orders, &apart, (end, rows))?;
    cuts::judged(&ground, &apart, &old).await?;
    cuts::late_is_seen(&ground, &late).await?;
    wal::judged(&ground, &apart).await?;
    oracles::what_is_kept(&ground.orders, &old).await
}

/// What the controls share.
struct Ground {
    orders: Database,
    /// Where the segments lie in the bucket.
    segments: PathBuf,
    /// Of the backup that is restored by hand.
    label: String,
    /// A time of the last segments.
    end: String,
    /// Every row was acknowledged and is archived.
    rows: i64,
    scratch: tempfile::TempDir,
}

impl Ground {
    fn of(orders: Database, apart: &Value, (end, rows): (String, i64)) -> Result<Self> {
        let uid = apart["metadata"]["uid"].as_str().context("no UID")?;
        // So much of it is in the folder's name.
        let uid = uid.get(..8).context("the UID is short")?;
        let lineage = bucket::lineage(&orders)?;
        let objects = bucket::objects(&orders.kubectl, &lineage)?;
        let mut labels = objects.keys().filter(|key| key.ends_with("/backup_label"));
        let label = labels.find(|key| key.starts_with("backups/") && key.contains(uid));
        let label = label.with_context(|| format!("no label of {uid}: {objects:#?}"))?;
        let label = bucket::folder(&orders.kubectl)?.join(&lineage).join(label);
        // PostgreSQL does not run as root, and must reach what is in it.
        let scratch = tempfile::tempdir()?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            segments: by_hand::segments(&orders)?,
            label: fs::read_to_string(label)?,
            orders,
            end,
            rows,
            scratch,
        })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The bucket's WAL as it lies there now.
    fn plain_wal(&self, name: &str) -> Result<PathBuf> {
        by_hand::plain_wal(&self.segments, &self.folder(&format!("{name}-wal")))
    }

    /// Puts a database together and has it judged: it owes every row, and no other.
    async fn judge(&self, name: &str, parts: &by_hand::Parts<'_>) -> Result<Result<i64>> {
        let root = self.folder(name);
        let database = by_hand::ByHand::restore(&root, parts).await;
        let database = database.with_context(|| format!("{name} was not restored"))?;
        Ok(database.judge((self.rows, self.rows)).await)
    }

    /// The right way, from these snapshots.
    fn parts<'a>(&'a self, data: &'a Path, fast: &'a Path, wal: &'a Path) -> by_hand::Parts<'a> {
        by_hand::Parts {
            data,
            pgdata: "pgdata",
            fast: Some(fast),
            label: Some(&self.label),
            wal,
        }
    }
}

/// The harm was done: whoever judges must say so.
fn seen(harm: &str, judged: Result<i64>) -> Result<()> {
    match judged {
        Ok(rows) => bail!("{harm}: nothing is seen of it, rows 1 to {rows} are there"),
        Err(error) => {
            println!("{harm}: {error:#}");
            Ok(())
        }
    }
}
