//! Bind mounts, by the `mount` and `umount` programs; what is mounted is read from the kernel.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Runs a program to its end; its standard error becomes the error.
pub async fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    let output = command
        .output()
        .await
        .with_context(|| format!("failed to run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let shown: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
    let cause = String::from_utf8_lossy(&output.stderr);
    bail!(
        "failed to run {program} {}: {}",
        shown.join(" "),
        cause.trim()
    )
}

/// Makes `source` appear at `target`, which is created if missing. Done already is success.
pub async fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    std::fs::create_dir_all(target)
        .with_context(|| format!("failed to create {}", target.display()))?;
    if is_mounted(target)? {
        return Ok(());
    }
    let flags = if read_only { "bind,ro" } else { "bind" };
    let args = [
        "-o".as_ref(),
        flags.as_ref(),
        source.as_os_str(),
        target.as_os_str(),
    ];
    run("mount", &args).await
}

/// Unmounts `target` and removes the folder. Not mounted, or not there, is success.
pub async fn unbind(target: &Path) -> Result<()> {
    while is_mounted(target)? {
        run("umount", &[target.as_os_str()]).await?;
    }
    match std::fs::remove_dir(target) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", target.display()))
        }
        _ => Ok(()),
    }
}

/// Is something mounted exactly here?
pub fn is_mounted(target: &Path) -> Result<bool> {
    let real = match std::fs::canonicalize(target) {
        Ok(real) => real,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).with_context(|| format!("failed to read {}", target.display())),
    };
    Ok(mounts()?.iter().any(|mount| mount.target == real))
}

/// Where the folder `root` of the file system that is mounted at `pool` is mounted beside that.
pub fn targets_of(pool: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let pool = std::fs::canonicalize(pool)?;
    let mounts = mounts()?;
    let Some(at) = mounts
        .iter()
        .rev()
        .filter(|m| pool.starts_with(&m.target))
        .max_by_key(|m| m.target.as_os_str().len())
    else {
        return Ok(Vec::new());
    };
    let inside = pool.strip_prefix(&at.target).unwrap_or(Path::new(""));
    let root = at.root.join(inside).join(folder);
    let same = mounts
        .iter()
        .filter(|m| m.device == at.device && m.root == root);
    Ok(same.map(|m| m.target.clone()).collect())
}

/// One line of `mountinfo`.
struct Mount {
    device: String,
    root: PathBuf,
    target: PathBuf,
}

fn mounts() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .context("failed to read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `36 35 98:0 /root /target options … - type source superoptions`
fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let root = PathBuf::from(unescape(fields.next()?));
    let target = PathBuf::from(unescape(fields.next()?));
    Some(Mount {
        device,
        root,
        target,
    })
}

/// The kernel writes blanks and backslashes in paths as `\ooo`.
fn unescape(field: &str) -> String {
    let known = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    known.iter().fold(field.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_mountinfo() {
        let line = r"36 35 0:30 /vol/a /var/lib/a\040b rw,relatime shared:1 - btrfs /dev/loop0 rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, "0:30");
        assert_eq!(mount.root, Path::new("/vol/a"));
        assert_eq!(mount.target, Path::new("/var/lib/a b"));
    }

    #[test]
    fn the_root_is_mounted_and_a_plain_folder_is_not() {
        assert!(is_mounted(Path::new("/")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self/task")).unwrap());
        assert!(!is_mounted(Path::new("/no/such/folder")).unwrap());
    }
}
