//! A cut that is none: files copied one by one while somebody may write to them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;
use std::time::Duration;

/// Copies what is under `from` into the folder `to`, with a wait before each file. Files that go
/// away meanwhile are left out.
pub fn copy_tree(from: &Path, to: &Path, delay: Duration) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match copy_one(&entry.path(), &target, delay) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    same_owner(&fs::metadata(from)?, to)
}

fn copy_one(from: &Path, to: &Path, delay: Duration) -> io::Result<()> {
    let about = fs::symlink_metadata(from)?;
    if about.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return lchown(to, Some(about.uid()), Some(about.gid()));
    }
    if about.is_dir() {
        fs::create_dir(to)?;
        return copy_tree(from, to, delay);
    }
    if !about.is_file() {
        return Ok(());
    }
    std::thread::sleep(delay);
    let (mut source, mut target) = (fs::File::open(from)?, fs::File::create(to)?);
    // Not io::copy: the kernel would share the extents, and so copy a whole file at one moment.
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        target.write_all(&buffer[..count])?;
    }
    same_owner(&about, to)
}

fn same_owner(about: &fs::Metadata, to: &Path) -> io::Result<()> {
    chown(to, Some(about.uid()), Some(about.gid()))?;
    fs::set_permissions(to, about.permissions())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn copies_files_folders_links_and_modes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("folder")).unwrap();
        let file = from.path().join("folder/file");
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("folder/file", from.path().join("link")).unwrap();

        copy_tree(from.path(), to.path(), Duration::ZERO).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("link")).unwrap(), "text");
        let mode = fs::metadata(to.path().join("folder/file")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            fs::symlink_metadata(to.path().join("link"))
                .unwrap()
                .is_symlink()
        );
    }
}
