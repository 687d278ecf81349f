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
const TRIES: u32 = 4;

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
        let key = Path::from(format!("rate/{stream}"));
        tokio::spawn(async move { store.put(&key, bytes.into()).await.unwrap() })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let rate = BYTES as f64 / begin.elapsed().as_secs_f64() / RATE as f64;
    for stream in 0..streams {
        let there = store.get(&Path::from(format!("rate/{stream}"))).await;
        let there = there.unwrap().bytes().await.unwrap();
        assert!(there == bytes, "another content arrived");
    }
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
        let mut most = 0.0;
        // A machine that stalls is slower, and nothing makes it faster.
        for _ in 0..TRIES {
            let rate = measured(&spec, streams).await;
            assert!(rate <= 1.1, "{streams} at once: {rate}");
            most = rate.max(most);
            if most >= 0.9 {
                break;
            }
        }
        assert!(most >= 0.9, "{streams} at once: {most}");
    }
}
