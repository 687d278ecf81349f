//! How plain bytes become an object's bytes: formats that an admin can read without Highwater.

use std::io::{self, BufRead, BufReader, Read, Write};

use bytes::{Bytes, BytesMut};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use object_store::{PutPayload, path::Path};
use sha2::{Digest, Sha256};

use super::{
    OpenError,
    encryption::{Identities, Notes, Recipients, at_end},
};
use crate::{
    api::{Compression, CompressionAlgorithm, PgArchiveSpec},
    buffers::Buffers,
};

/// How an object is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A Zstandard frame (RFC 8878): `zstd -d` reads it.
    Zstd,
    /// An LZ4 frame: `lz4 -d` reads it.
    Lz4,
    /// The plain bytes.
    Raw,
}

/// What an object's ending says about its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// How it is compressed.
    pub codec: Codec,
    /// Whether what came of that is encrypted: `age -d` reads it.
    pub encrypted: bool,
}

/// Why plain bytes cannot be had from an object's.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It is encrypted, and there is no key.
    KeyMissing,
    /// It is encrypted, and none of the keys fits.
    KeyWrong,
    /// It is not what its ending says.
    Broken(io::Error),
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Codec {
    const fn encoding(self, encrypted: bool) -> Encoding {
        Encoding {
            codec: self,
            encrypted,
        }
    }
}

impl Encoding {
    /// Every one that a reader may meet, the likeliest first.
    pub const ALL: [Self; 6] = [
        Codec::Zstd.encoding(false),
        Codec::Zstd.encoding(true),
        Codec::Lz4.encoding(false),
        Codec::Lz4.encoding(true),
        Codec::Raw.encoding(false),
        Codec::Raw.encoding(true),
    ];

    /// The ending of keys.
    pub const fn extension(self) -> &'static str {
        match (self.codec, self.encrypted) {
            (Codec::Zstd, false) => "zst",
            (Codec::Zstd, true) => "zst.age",
            (Codec::Lz4, false) => "lz4",
            (Codec::Lz4, true) => "lz4.age",
            (Codec::Raw, false) => "raw",
            (Codec::Raw, true) => "raw.age",
        }
    }

    /// From the ending of a key.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.extension() == extension)
    }

    /// From a key; `None` for objects that are never encoded.
    pub(super) fn of(key: &Path) -> Option<Self> {
        let (before, last) = key.filename()?.rsplit_once('.')?;
        let encrypted = || Self::from_extension(&format!("{}.{last}", before.rsplit_once('.')?.1));
        Self::from_extension(last).or_else(encrypted)
    }

    /// Plain bytes from an object's, in `plain`, which is empty; `limit` bounds what a broken object can make of itself.
    pub(super) fn decode(
        self,
        stored: &[u8],
        limit: usize,
        identities: &Identities,
        mut plain: Vec<u8>,
    ) -> Result<Vec<u8>, DecodeError> {
        match (self.codec, self.encrypted) {
            (Codec::Raw, false) if stored.len() > limit => Err(too_long(limit)),
            (Codec::Raw, false) => {
                plain.extend_from_slice(stored);
                Ok(())
            }
            (Codec::Zstd, false) => zstd_content(stored, limit, &mut plain),
            (Codec::Lz4, false) => self.codec.read(stored, stored.len(), limit, &mut plain),
            (_, true) => {
                let opened = BufReader::with_capacity(CHUNK, identities.open(stored)?);
                self.codec.read(opened, stored.len(), limit, &mut plain)
            }
        }?;
        Ok(plain)
    }
}

impl Codec {
    /// Plain bytes from a stream of encoded ones: never two copies of the whole.
    fn read(
        self,
        mut encoded: impl BufRead,
        stored: usize,
        limit: usize,
        plain: &mut Vec<u8>,
    ) -> io::Result<()> {
        let first = encoded.fill_buf()?;
        if first.is_empty() && self != Self::Raw {
            // To the libraries it is no frame at all, and so no content.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let announced = self.announced(first).unwrap_or(stored);
        plain.reserve_exact(announced.min(limit));
        match self {
            Self::Raw => copy(encoded.by_ref(), plain, limit)?,
            Self::Zstd => {
                let mut frame =
                    zstd::stream::read::Decoder::with_buffer(&mut encoded)?.single_frame();
                copy(&mut frame, plain, limit)?;
            }
            Self::Lz4 => {
                let frame = FrameDecoder::new(Unended(&mut encoded));
                copy(frame, plain, limit)?;
            }
        }
        at_end(encoded)
    }

    /// The length of the content that a frame's first bytes announce.
    fn announced(self, first: &[u8]) -> Option<usize> {
        let length = match self {
            Self::Raw => None,
            Self::Zstd => zstd::zstd_safe::get_frame_content_size(first)
                .ok()
                .flatten(),
            Self::Lz4 => {
                let sized = first.get(4).is_some_and(|flags| flags & LZ4_SIZED != 0);
                let bytes = first.get(6..14).filter(|_| sized)?;
                Some(u64::from_le_bytes(bytes.try_into().ok()?))
            }
        };
        usize::try_from(length?).ok()
    }
}

/// In one go: that takes half of the time of piece by piece.
fn zstd_content(stored: &[u8], limit: usize, plain: &mut Vec<u8>) -> io::Result<()> {
    if stored.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let announced = Codec::Zstd.announced(stored).unwrap_or(limit);
    plain.reserve_exact(announced.min(limit));
    zstd::bulk::Decompressor::new()?.decompress_to_buffer(stored, plain)?;
    match plain.len() > limit {
        true => Err(too_long(limit)),
        false => Ok(()),
    }
}

/// Bytes that must not end while they are read: the LZ4 library takes an end between two blocks for the frame's.
struct Unended<R>(R);

impl<R: Read> Read for Unended<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.0.read(to)? {
            0 if !to.is_empty() => Err(io::Error::other("it ends within its frame")),
            read => Ok(read),
        }
    }
}

/// The flag of an LZ4 frame that its content's size follows.
const LZ4_SIZED: u8 = 0x08;

fn copy(from: impl Read, to: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    // One more, to see that there is more.
    from.take(limit as u64 + 1).read_to_end(to)?;
    match to.len() > limit {
        true => Err(too_long(limit)),
        false => Ok(()),
    }
}

fn too_long(limit: usize) -> io::Error {
    io::Error::other(format!("more than {limit} bytes"))
}

/// How a writer encodes.
#[derive(Clone, Debug)]
pub struct Encoder {
    codec: Codec,
    level: i32,
    recipients: Recipients,
    frames: Buffers,
}

/// Compressed bytes are kept in pieces of this size: one buffer that doubles would need twice the memory.
const CHUNK: usize = 256 * 1024;

impl Encoder {
    /// As the PgArchive says. Default: zstd, level 3, not encrypted.
    ///
    /// # Errors
    /// A recipient that is none.
    pub fn new(spec: &PgArchiveSpec) -> Result<Self, OpenError> {
        let compression = spec.compression.clone().unwrap_or(Compression {
            algorithm: CompressionAlgorithm::Zstd,
            level: None,
        });
        let Compression { algorithm, level } = compression;
        Ok(Self {
            codec: match algorithm {
                CompressionAlgorithm::Zstd => Codec::Zstd,
                CompressionAlgorithm::Lz4 => Codec::Lz4,
                CompressionAlgorithm::None => Codec::Raw,
            },
            level: level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL),
            recipients: Recipients::new(spec.encryption.as_ref())?,
            frames: Buffers::default(),
        })
    }

    /// Makes objects in `frames`. Default: in memory of their own.
    #[must_use]
    pub(super) fn with_buffers(self, frames: Buffers) -> Self {
        Self { frames, ..self }
    }

    /// What the objects are that it makes.
    pub fn encoding(&self) -> Encoding {
        self.codec.encoding(!self.recipients.is_empty())
    }

    /// An object's bytes from plain ones. `notes` is what an encrypted one says in the clear.
    pub(super) fn encode(&self, plain: &Bytes, notes: &Notes) -> io::Result<PutPayload> {
        let encrypted = self.encoding().encrypted;
        match self.codec {
            Codec::Raw if !encrypted => return Ok(plain.clone().into()),
            Codec::Zstd if !encrypted => return Ok(self.zstd_frame(plain)?.into()),
            Codec::Raw | Codec::Zstd | Codec::Lz4 => {}
        }
        let sink = match encrypted {
            true => {
                let encryptor = self.recipients.encryptor(notes)?;
                Sink::Encrypted(encryptor.wrap_output(Chunks::default())?)
            }
            false => Sink::Clear(Chunks::default()),
        };
        self.compress(plain, sink)?.finish()
    }

    /// In one go: fed piece by piece, the compressor copies everything before it looks at it. Of the room for the worst
    /// case only what is written takes memory.
    fn zstd_frame(&self, plain: &[u8]) -> io::Result<Bytes> {
        let mut compressor = zstd::bulk::Compressor::new(level_for(plain, self.level)?)?;
        // Readers learn from the frame how long the content is, and whether it is whole.
        compressor.include_contentsize(true)?;
        compressor.include_checksum(true)?;
        let mut frame = self.frames.take();
        frame.reserve_exact(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, &mut frame)?;
        Ok(self.frames.lend(frame))
    }

    /// Readers learn from a frame how long its content is, and whether it is whole.
    fn compress(&self, plain: &[u8], mut sink: Sink) -> io::Result<Sink> {
        match self.codec {
            Codec::Raw => {
                sink.write_all(plain)?;
                Ok(sink)
            }
            Codec::Zstd => {
                let mut frame =
                    zstd::stream::write::Encoder::new(sink, level_for(plain, self.level)?)?;
                frame.set_pledged_src_size(Some(plain.len() as u64))?;
                frame.include_contentsize(true)?;
                frame.include_checksum(true)?;
                frame.write_all(plain)?;
                frame.finish()
            }
            Codec::Lz4 => {
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Linked)
                    .content_size(Some(plain.len() as u64))
                    .content_checksum(true);
                let mut frame = FrameEncoder::with_frame_info(info, sink);
                frame.write_all(plain)?;
                Ok(frame.finish()?)
            }
        }
    }
}

/// Where an object's bytes go.
enum Sink {
    Clear(Chunks),
    Encrypted(age::stream::StreamWriter<Chunks>),
}

impl Sink {
    fn finish(self) -> io::Result<PutPayload> {
        let chunks = match self {
            Self::Clear(chunks) => chunks,
            Self::Encrypted(stream) => stream.finish()?,
        };
        Ok(chunks.into_payload())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(chunks) => chunks.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// Zstandard hardly looks for repetitions at this level.
const HARDLY: i32 = -100;
/// Samples that tell whether bytes can be compressed: this many, of this length.
const SAMPLES: usize = 16;
const SAMPLE: usize = 16 << 10;

/// The level for `plain`: the one that is wanted, or, where samples shrink by less than a tenth, one that does not try: it
/// takes a tenth of the time.
fn level_for(plain: &[u8], wanted: i32) -> io::Result<i32> {
    if plain.len() < 2 * SAMPLES * SAMPLE {
        return Ok(wanted);
    }
    let mut compressor = zstd::bulk::Compressor::new(wanted)?;
    let mut shrunk = 0;
    for sample in plain.chunks(plain.len() / SAMPLES).take(SAMPLES) {
        let sample = sample.get(..SAMPLE).unwrap_or(sample);
        shrunk += compressor.compress(sample)?.len();
    }
    let hardly = shrunk * 10 > SAMPLES * SAMPLE * 9;
    Ok(if hardly { HARDLY } else { wanted })
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
