//! WAL that is missing from the bucket, or was overwritten there: our restore refuses it, and one by hand that does not is
//! seen to lack rows.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use highwater::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use highwater_e2e::{
    bench::scratch,
    harness::{Database, bucket, condition, said, snapshot_folder, story, until},
};
use serde_json::Value;
use tokio_postgres::Client;

use super::{Ground, LIMIT, seen};

/// Behind the header of the first page: in the first record.
const RECORD: usize = 100;
/// Where the first page's header has the system identifier.
const SYSTEM: std::ops::Range<usize> = 24..32;

/// Waits until all that was written is in the bucket, and known there.
pub async fn shipped(orders: &Database, client: &Client) -> Result<()> {
    let switch = "SELECT pg_walfile_name(pg_switch_wal())";
    let last: String = client.query_one(switch, &[]).await?.get(0);
    let lineage = bucket::lineage(orders)?;
    let entry = format!("index/00000001/{last}.json");
    until("the last segment in the bucket", LIMIT, || {
        let objects = bucket::objects(&orders.kubectl, &lineage)?;
        Ok(objects.contains_key(&entry).then_some(()))
    })
    .await
}

/// One segment well behind the backup's end, and what is done to it.
pub async fn judged(ground: &Ground, apart: &Value) -> Result<()> {
    let victim = victim(ground, apart)?;
    let object = ground.segments.join(&victim);
    overwrite(ground, &object, |plain| plain[RECORD] ^= 0xff)?;
    refused(ground, apart, "flipped", &["ArchiveCorrupt"]).await?;
    by_hand(ground, apart, "flipped", "a byte of a segment is another").await?;

    overwrite(ground, &object, |plain| {
        plain[RECORD] ^= 0xff;
        plain[SYSTEM].reverse();
    })?;
    by_hand(ground, apart, "foreign", "a segment is another cluster's").await?;

    fs::remove_file(&object)?;
    refused(ground, apart, "deleted", &["WalMissing", "Gap"]).await?;
    by_hand(ground, apart, "deleted", "a segment is missing").await
}

/// The second segment that begins after the backup's stop: each of the next ones has rows.
fn victim(ground: &Ground, apart: &Value) -> Result<String> {
    let stop = apart["status"]["session"]["stopLsn"].as_str();
    let stop: Lsn = stop.context("no stop LSN")?.parse()?;
    let stop = SegmentName::containing(TimelineId::FIRST, stop, SegmentSize::DEFAULT).to_string();
    let mut later = scratch::names(&ground.segments, |name| {
        name.get(..24).is_some_and(|name| *name > *stop)
    })?;
    ensure!(later.len() >= 4, "after {stop} there are only {later:?}");
    Ok(later.swap_remove(1))
}

/// In place, so that the object keeps the metadata that the store has of it.
fn overwrite(ground: &Ground, object: &Path, harm: impl FnOnce(&mut [u8])) -> Result<()> {
    let (plain, packed) = (ground.folder("plain"), ground.folder("packed"));
    let zstd = |args: &[&str], from: &Path, to: &Path| {
        let mut zstd = Command::new("zstd");
        scratch::output(zstd.args(args).args(["-q", "-f", "-o"]).args([to, from]))
    };
    zstd(&["-d"], object, &plain)?;
    let mut content = fs::read(&plain)?;
    harm(&mut content);
    fs::write(&plain, content)?;
    zstd(&[], &plain, &packed)?;
    fs::write(object, fs::read(packed)?)?;
    Ok(())
}

/// Ours fails, says why, and there is no database that could be taken for a restored one.
async fn refused(ground: &Ground, apart: &Value, name: &str, reasons: &[&str]) -> Result<()> {
    let (kubectl, namespace) = (&ground.orders.kubectl, ground.orders.namespace.as_str());
    let source = apart["metadata"]["name"].as_str().context("no name")?;
    let source = format!("{{backup: {source}}}");
    let time = format!("{{time: \"{}\"}}", ground.end);
    story::request_restore(kubectl, namespace, (name, &source), name, &time)?;
    let (about, failed) = (("pgr", name), ("Completed", "False"));
    let object = condition(kubectl, namespace, about, failed, LIMIT).await?;
    let completed = said(&object, "Completed").context("it says nothing")?;
    let reason = completed["reason"].as_str().unwrap_or_default();
    println!("{name}: {reason}: {}", completed["message"]);
    ensure!(reasons.contains(&reason), "{name}: {completed}");
    if kubectl.get(namespace, "statefulset", name)?.is_some() {
        bail!("{name} is there");
    }
    Ok(())
}

/// With plain `cp`, for which what is missing or broken is the end of the log.
async fn by_hand(ground: &Ground, apart: &Value, name: &str, harm: &str) -> Result<()> {
    let wal = ground.plain_wal(name)?;
    let data = snapshot_folder(apart, "data-orders-0")?;
    let fast = snapshot_folder(apart, "fast-orders-0")?;
    let judged = ground
        .judge(name, &ground.parts(&data, &fast, &wal))
        .await?;
    seen(harm, judged)
}
