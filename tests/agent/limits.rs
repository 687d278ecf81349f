//! The limit of uploads is kept, by one request and by four together, over a real S3 server.

use std::time::Instant;

use highwater::{
    api::PgArchiveSpec,
    clock::{Clock, SystemClock},
};
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    killed::Random,
    server::{BUCKET, KEY_ID, SECRET, Server, open},
};

const RATE: u64 = 4 << 20;
const BYTES: u64 = 12 << 20;

/// Bytes per second of `streams` uploads together, in units of the limit.
async fn measured(spec: &PgArchiveSpec, streams: u64) -> f64 {
    let store = open(spec, KEY_ID, SECRET);
    let mut random = Random(SystemClock.now().as_microsecond().cast_unsigned() | 1);
    let each = usize::try_from(BYTES / streams).unwrap();
    let bytes: Vec<u8> = (0..each)
        .map(|_| u8::try_from(random.below(256)).unwrap())
        .collect();
    // What a first request costs is not the upload's.
    store
        .put(&Path::from("first"), vec![0].into())
        .await
        .unwrap();
    let begin = Instant::now();
    let puts = (0..streams).map(|stream| {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::spawn(async move {
            let key = Path::from(format!("rate/{stream}"));
            store.put(&key, bytes.clone().into()).await.unwrap();
            let there = store.get(&key).await.unwrap().bytes().await.unwrap();
            assert!(there == bytes, "another content arrived");
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let rate = BYTES as f64 / begin.elapsed().as_secs_f64() / RATE as f64;
    println!("{streams} at once: {rate:.3} of the limit");
    rate
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_keep_to_the_limit() {
    let server = Server::start();
    let mut spec = server.spec(BUCKET);
    let free = measured(&spec, 4).await;
    assert!(free > 1.5, "without a limit this is as slow: {free}");
    spec.limits =
        Some(serde_json::from_value(serde_json::json!({"uploadBytesPerSecond": "4Mi"})).unwrap());
    for streams in [1, 4] {
        let rate = measured(&spec, streams).await;
        assert!((0.9..=1.1).contains(&rate), "{streams} at once: {rate}");
    }
}
