//! Bringing images to where a cluster's nodes find them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{Images, image::program_image, postgres};

/// The folder of the programs that were built with this one, be it a program or a test.
///
/// # Errors
/// `highwater` is not there.
pub fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let folder = folders
        .map(Path::to_owned)
        .find(|folder| folder.join("highwater").exists());
    folder.context("highwater is not built: run `cargo build --workspace --bins`")
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
    load_image(&image)?;
    Ok(Images {
        highwater: name,
        ..Images::loaded()
    })
}

/// Loads PostgreSQL of another major than the dev cluster's into it, and says what its image is called.
///
/// # Errors
/// Not inside `devcluster enter --`, or `scripts/majors` has not installed it.
pub fn load_postgres(major: &str) -> Result<String> {
    let name = format!("localhost/postgres:{major}");
    if major == postgres::major() {
        return Ok(name);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("devcluster/postgres-image");
    let made = Command::new(script).arg(major).output()?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "failed to make {name}: {said}");
    load_image(Path::new(String::from_utf8(made.stdout)?.trim()))?;
    Ok(name)
}

fn load_image(tar: &Path) -> Result<()> {
    let devcluster = std::env::var_os("HIGHWATER_DEVCLUSTER");
    let mut load = Command::new(devcluster.context("run this with `devcluster enter --`")?);
    let loaded = load.arg("load-image").arg(tar).status()?;
    ensure!(loaded.success(), "failed to load the image");
    Ok(())
}

/// Pushes the images that the demo needs to a registry, named after their content. Who may push is what `docker login` left.
///
/// # Errors
/// One of them cannot be made or pushed.
pub fn push(program: &Path, toolchain: &Path, registry: &str) -> Result<Images> {
    let registry = registry.trim_end_matches('/');
    let push = |tar: &Path, name: &str, tag: &str| {
        let image = format!("{registry}/{name}:{tag}");
        let mut crane = Command::new(toolchain.join("bin/crane"));
        let pushed = crane.arg("push").arg(tar).arg(&image).output();
        let pushed = pushed.context("failed to start crane: run scripts/tools")?;
        let said = String::from_utf8_lossy(&pushed.stderr);
        ensure!(pushed.status.success(), "failed to push {image}: {said}");
        Ok(image)
    };
    let built = |tar: &str, name: &str| {
        let tar = toolchain.join("images").join(tar);
        push(&tar, name, &content(&tar)?)
    };
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("highwater.tar");
    program_image(program, "highwater:demo", &image)?;
    Ok(Images {
        highwater: push(&image, "highwater", &content(program)?)?,
        postgres: built(
            &format!("postgres-{}.tar", postgres::major()),
            "highwater-demo-postgres",
        )?,
        versitygw: built("versitygw.tar", "highwater-demo-versitygw")?,
        pull_policy: "IfNotPresent".into(),
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
