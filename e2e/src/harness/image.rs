//! An image with one static program, as a tar that `ctr images import` takes.

use std::{fs, io::Read, path::Path};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Writes the image `name` with the program at `/highwater` to `to`.
///
/// # Errors
/// The program cannot be read or the tar not written.
pub fn program_image(program: &Path, name: &str, to: &Path) -> Result<()> {
    let layer = layer(program)?;
    let digest: String = Sha256::digest(&layer)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/highwater"], "User": "65532:65532" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    let mut image = tar::Builder::new(fs::File::create(to).context("failed to make the image")?);
    append(
        &mut image,
        "manifest.json",
        manifest.to_string().as_bytes(),
        0o644,
    )?;
    append(
        &mut image,
        "config.json",
        config.to_string().as_bytes(),
        0o644,
    )?;
    append(&mut image, "layer.tar", &layer, 0o644)?;
    image.finish()?;
    Ok(())
}

fn layer(program: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut file =
        fs::File::open(program).with_context(|| format!("failed to open {}", program.display()))?;
    file.read_to_end(&mut content)?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "highwater", &content, 0o755)?;
    Ok(layer.into_inner()?)
}

fn append(
    tar: &mut tar::Builder<impl std::io::Write>,
    name: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    tar.append_data(&mut header, name, content)?;
    Ok(())
}
