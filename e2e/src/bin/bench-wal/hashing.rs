//! What a SHA-256 of a segment costs here: the one thing that is done per segment and that peers leave out.

use std::{hint::black_box, path::Path};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::scratch;

const ROUNDS: u32 = 20;

/// CPU milliseconds for a segment.
///
/// # Errors
/// The segment cannot be read.
pub fn cost(segment: &Path) -> Result<f64> {
    let bytes = scratch::read(segment)?;
    let before = scratch::thread_cpu()?;
    for _ in 0..ROUNDS {
        black_box(Sha256::digest(black_box(&bytes)));
    }
    Ok((scratch::thread_cpu()? - before) / f64::from(ROUNDS))
}
