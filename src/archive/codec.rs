//! How plain bytes become an object's bytes: formats that an admin can read without Highwater.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use object_store::PutPayload;
use sha2::{Digest, Sha256};

use crate::api::{Compression, CompressionAlgorithm};

/// What an object's ending says about its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A Zstandard frame (RFC 8878): `zstd -d` reads it.
    Zstd,
    /// The plain bytes.
    Raw,
}

impl Codec {
    /// Every codec that a reader may meet, the likeliest first.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Raw];

    /// The ending of keys.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Raw => "raw",
        }
    }

    /// From the ending of a key.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.extension() == extension)
    }

    /// Plain bytes from an object's; `limit` bounds what a broken object can make of itself.
    ///
    /// # Errors
    /// Not a Zstandard frame, or more than `limit` bytes.
    pub fn decode(self, bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Raw if bytes.len() > limit => {
                Err(io::Error::other(format!("more than {limit} bytes")))
            }
            Self::Raw => Ok(bytes.to_vec()),
            Self::Zstd => zstd::bulk::decompress(bytes, limit),
        }
    }
}

/// How a writer encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// The codec.
    pub codec: Codec,
    level: i32,
}

/// Compressed bytes are kept in pieces of this size: one buffer that doubles would need twice the memory.
const CHUNK: usize = 256 * 1024;

impl Encoder {
    /// As the PgArchive says. Default: zstd, level 3.
    pub fn new(compression: Option<&Compression>) -> Self {
        let (codec, level) = match compression {
            Some(Compression {
                algorithm: CompressionAlgorithm::None,
                level: _,
            }) => (Codec::Raw, None),
            Some(Compression {
                algorithm: CompressionAlgorithm::Zstd,
                level,
            }) => (Codec::Zstd, *level),
            None => (Codec::Zstd, None),
        };
        let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
        Self { codec, level }
    }

    /// An object's bytes from plain ones.
    ///
    /// # Errors
    /// Memory.
    pub fn encode(self, plain: &Bytes) -> io::Result<PutPayload> {
        match self.codec {
            Codec::Raw => Ok(plain.clone().into()),
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Chunks::default(), self.level)?;
                // Readers learn from the frame how long the content is, and whether it is whole.
                encoder.set_pledged_src_size(Some(plain.len() as u64))?;
                encoder.include_contentsize(true)?;
                encoder.include_checksum(true)?;
                encoder.write_all(plain)?;
                Ok(encoder.finish()?.into_payload())
            }
        }
    }
}

/// What is written, in pieces.
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    current: BytesMut,
}

impl Chunks {
    fn into_payload(mut self) -> PutPayload {
        self.full.push(self.current.freeze());
        self.full.into_iter().collect()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() >= CHUNK {
            self.full.push(self.current.split().freeze());
        }
        if self.current.capacity() == 0 {
            self.current.reserve(CHUNK);
        }
        let taken = bytes.len().min(CHUNK - self.current.len());
        self.current
            .extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(encoder: Encoder, plain: &[u8]) -> Bytes {
        encoder
            .encode(&Bytes::copy_from_slice(plain))
            .unwrap()
            .into()
    }

    #[test]
    fn a_broken_object_is_no_content() {
        let plain = vec![7; 3 * CHUNK];
        let stored = encoded(Encoder::new(None), &plain).to_vec();
        for at in 0..stored.len() {
            let mut broken = stored.clone();
            broken[at] ^= 1;
            let read = Codec::Zstd.decode(&broken, plain.len());
            assert!(read.is_err() || read.unwrap() == plain, "byte {at}");
        }
        assert!(
            Codec::Zstd
                .decode(&stored[..stored.len() - 1], plain.len())
                .is_err()
        );
        assert!(
            Codec::Zstd.decode(&stored, plain.len() - 1).is_err(),
            "limit"
        );
        assert!(Codec::Raw.decode(&plain, plain.len() - 1).is_err(), "limit");
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(seed: u64, length in 0..5 * CHUNK, none: bool) {
            // Half noise, half zeros: neither all literals nor all matches.
            let mut state = seed | 1;
            let plain: Vec<u8> = (0..length).map(|at| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if at % 2 == 0 { state.to_le_bytes()[0] } else { 0 }
            }).collect();
            let compression = none.then_some(Compression { algorithm: CompressionAlgorithm::None, level: None });
            let encoder = Encoder::new(compression.as_ref());
            let stored = encoded(encoder, &plain);
            prop_assert_eq!(encoder.codec.decode(&stored, length).unwrap(), plain);
        }
    }
}
