//! Bringing images to where a cluster's nodes find them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{Images, program_image};

/// The folder of this program: `highwater` is built beside it.
///
/// # Errors
/// There is none.
pub fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("this program has no folder")?;
    Ok(folder.to_owned())
}

/// Loads the image of this `highwater` into the dev cluster. Its name changes with its content, so that a Deployment that
/// runs another one is rolled.
///
/// # Errors
/// Not inside `devcluster enter --`, or the image cannot be made.
pub fn load(program: &Path) -> Result<Images> {
    let name = format!("localhost/highwater:{}", content(program)?);
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("highwater.tar");
    program_image(program, &name, &image)?;
    let devcluster = std::env::var_os("HIGHWATER_DEVCLUSTER");
    let mut load = Command::new(devcluster.context("run this with `devcluster enter --`")?);
    let loaded = load.arg("load-image").arg(&image).status()?;
    ensure!(loaded.success(), "failed to load the image");
    Ok(Images {
        highwater: name,
        ..Images::loaded()
    })
}

/// The beginning of a file's SHA-256.
fn content(file: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file =
        fs::File::open(file).with_context(|| format!("failed to open {}", file.display()))?;
    io::copy(&mut file, &mut hash)?;
    let hash = hash.finalize();
    Ok(hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
