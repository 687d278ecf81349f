//! How plain bytes become an object's bytes: formats that an admin can read without Highwater.

use std::io;

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

impl Encoder {
    /// As the PgArchive says. Default: zstd, level 3.
    pub fn new(compression: Option<&Compression>) -> Self {
        match compression {
            Some(Compression {
                algorithm: CompressionAlgorithm::None,
                level: _,
            }) => Self {
                codec: Codec::Raw,
                level: 0,
            },
            Some(Compression {
                algorithm: CompressionAlgorithm::Zstd,
                level,
            }) => Self {
                codec: Codec::Zstd,
                level: level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL),
            },
            None => Self {
                codec: Codec::Zstd,
                level: zstd::DEFAULT_COMPRESSION_LEVEL,
            },
        }
    }

    /// An object's bytes from plain ones.
    ///
    /// # Errors
    /// Memory.
    pub fn encode(self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self.codec {
            Codec::Raw => Ok(plain.to_vec()),
            Codec::Zstd => zstd::bulk::compress(plain, self.level),
        }
    }
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
