//! Files that are whole or not there, and durable where that matters.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// A user and a group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Replaces the file at `path` in one step. Not durable: for what a restarted program does not need.
///
/// # Errors
/// The file system's.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = partial_name(path);
    write_new(&partial, content)?;
    fs::rename(&partial, path)
}

/// As [`replace`], then fsync of file and directory; the file belongs to `owner`.
///
/// # Errors
/// The file system's.
pub fn replace_durably(path: &Path, content: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let partial = partial_name(path);
    let file = write_new(&partial, content)?;
    if let Some(Owner { uid, gid }) = owner {
        chown(&partial, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_parent(path)
}

/// Renames, then fsyncs the directories of both.
///
/// # Errors
/// The file system's.
pub fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(from)?;
    sync_parent(to)
}

/// Makes the entries of the directory that `path` is in durable.
///
/// # Errors
/// The file system's.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes the entries of `directory` durable.
///
/// # Errors
/// The file system's.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file, a link or a directory with all that is in it. Links are not followed. `false`: there was none.
///
/// # Errors
/// The file system's.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).map(|()| true),
        Ok(_) => fs::remove_file(path).map(|()| true),
    }
}

/// Removes all that is in `directory`, and makes that durable. Nothing to do if there is no such directory.
///
/// # Errors
/// The file system's.
pub fn empty(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        remove(&entry?.path())?;
    }
    sync_directory(directory)
}

/// Makes a directory that only `owner` may use. One that is there is kept.
///
/// # Errors
/// The file system's.
pub fn private_directory(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    match owner {
        Some(Owner { uid, gid }) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Beside `path`, so that a rename is enough.
fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    Ok(file)
}
