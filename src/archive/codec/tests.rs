use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::archive::encryption::tests::{identities, key};

/// Every way to write, each with what reads it.
fn encoders() -> Vec<(Encoder, Identities)> {
    let key = key();
    let algorithms = [json!(null), json!("lz4"), json!("none")];
    let encoder = |algorithm: &Value, encrypted: bool| {
        let compression = match algorithm {
            Value::Null => json!(null),
            named => json!({"algorithm": named}),
        };
        let recipients = json!({"recipients": [key.to_public().to_string()]});
        let encryption = if encrypted { recipients } else { json!(null) };
        let spec = json!({"compression": compression, "encryption": encryption});
        Encoder::new(&serde_json::from_value(spec).unwrap()).unwrap()
    };
    let keys = identities([&key]);
    let all = algorithms.iter().flat_map(|algorithm| {
        [false, true].map(|encrypted| (encoder(algorithm, encrypted), keys.clone()))
    });
    all.collect()
}

/// Memory that has held something else, and more of it.
fn used() -> Vec<u8> {
    let mut buffer = vec![9; 1 << 21];
    buffer.clear();
    buffer
}

fn encoded(encoder: &Encoder, plain: &[u8]) -> Bytes {
    let notes = Notes {
        sha256: Some(sha256(plain)),
        records: None,
    };
    let plain = Bytes::copy_from_slice(plain);
    encoder.encode(&plain, &notes).unwrap().into()
}

/// Half noise, half zeros: neither all literals nor all matches.
fn noisy(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let byte = |at: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if at.is_multiple_of(2) {
            state.to_le_bytes()[0]
        } else {
            0
        }
    };
    (0..length).map(byte).collect()
}

#[test]
fn every_way_to_write_has_an_ending_of_its_own() {
    let written: Vec<_> = encoders()
        .iter()
        .map(|(encoder, _)| encoder.encoding())
        .collect();
    assert_eq!(written, Encoding::ALL);
}

/// Of what is not encrypted there is a byte or two that nobody looks at, and plain bytes have no checksum of their own.
#[test]
fn a_broken_object_is_no_content() {
    let plain = noisy(7, 700);
    for (encoder, keys) in encoders() {
        let encoding = encoder.encoding();
        let read = |stored: &[u8]| encoding.decode(stored, plain.len(), &keys, used()).ok();
        let stored = encoded(&encoder, &plain).to_vec();
        assert_eq!(read(&stored).unwrap(), plain);
        for at in 0..stored.len() {
            for bit in [1, 0x80] {
                let mut broken = stored.clone();
                broken[at] ^= bit;
                let read = read(&broken);
                let detected = match (encoding.codec, encoding.encrypted) {
                    (_, true) => read.is_none(),
                    (Codec::Zstd | Codec::Lz4, false) => read.is_none_or(|read| read == plain),
                    (Codec::Raw, false) => true,
                };
                assert!(detected, "{encoding:?}: byte {at}");
            }
        }
        for length in 0..stored.len() {
            let cut = read(&stored[..length]);
            let detected = cut.is_none() || encoding == Encoding::ALL[4];
            assert!(detected, "{encoding:?}: {length} bytes");
        }
    }
}

#[test]
fn what_follows_the_content_is_no_part_of_it() {
    for (encoder, keys) in encoders() {
        let encoding = encoder.encoding();
        let mut stored = encoded(&encoder, &[7; 700]).to_vec();
        stored.extend_from_slice(b"more");
        let read = encoding.decode(&stored, 1 << 20, &keys, used()).ok();
        let detected = read.is_none() || encoding == Encoding::ALL[4];
        assert!(detected, "{encoding:?}");
    }
}

#[test]
fn more_than_the_limit_is_refused() {
    let plain = vec![7; 3 * CHUNK];
    for (encoder, keys) in encoders() {
        let stored = encoded(&encoder, &plain);
        let encoding = encoder.encoding();
        assert!(encoding.decode(&stored, plain.len(), &keys, used()).is_ok());
        let refused = encoding.decode(&stored, plain.len() - 1, &keys, used());
        assert!(
            matches!(refused, Err(DecodeError::Broken(_))),
            "{encoding:?}"
        );
    }
}

#[test]
fn what_hardly_shrinks_is_hardly_tried() {
    let long = 1 << 20;
    let random: Vec<u8> = noisy(5, 2 * long).into_iter().step_by(2).collect();
    assert_eq!(level_for(&random, 19).unwrap(), HARDLY);
    assert_eq!(level_for(&noisy(5, long), 19).unwrap(), 19);
    assert_eq!(level_for(&random[..1000], 19).unwrap(), 19);
    // A fifth of it says the same again and again, in the middle.
    let mut mixed = random.clone();
    mixed[long / 3..long / 3 + long / 5].fill(7);
    assert_eq!(level_for(&mixed, 19).unwrap(), 19);
}

/// Of a segment that compresses well no more is held than its pieces.
#[test]
fn what_is_encoded_lies_in_pieces() {
    let plain = noisy(3, 5 * CHUNK);
    for (encoder, _) in encoders()
        .into_iter()
        .filter(|(e, _)| e.encoding().encrypted)
    {
        let payload = encoder
            .encode(&plain.clone().into(), &Notes::default())
            .unwrap();
        assert!(payload.iter().all(|piece| piece.len() <= CHUNK));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn reads_what_it_wrote(seed: u64, length in 0..5 * CHUNK) {
        let plain = noisy(seed, length);
        for (encoder, keys) in encoders() {
            let encoding = encoder.encoding();
            let stored = encoded(&encoder, &plain);
            let read = encoding.decode(&stored, length, &keys, Vec::new()).unwrap();
            prop_assert!(read == plain, "{:?}", encoding);
            // What was reserved is what was needed.
            prop_assert!(!encoding.encrypted || read.capacity() <= length.max(CHUNK) + 64);
        }
    }

    #[test]
    fn broken_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (encoder, keys) in encoders() {
            let _ = encoder.encoding().decode(&bytes, 1 << 20, &keys, used());
        }
    }
}
