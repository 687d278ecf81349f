//! Files that are whole or not there, and durable where that matters.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd as _,
        unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

/// Bytes that are written at once.
const PIECE: usize = 1 << 20;

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
    let new = NewFile::create(path)?;
    write(&mut new.file(), content)?;
    new.keep()
}

/// Writes `content` in pieces. Where it is one large piece Linux looks for large pieces of memory, which a virtual machine may
/// have to ask its host for: 53 ms for 16 MiB, where 1 MiB at a time takes 5.
///
/// # Errors
/// The file system's.
pub fn write(to: &mut impl Write, content: &[u8]) -> io::Result<()> {
    let mut pieces = content.chunks(PIECE);
    pieces.try_for_each(|piece| to.write_all(piece))
}

/// A file that gets its name once it is whole. Dropped before, nothing of it stays.
#[derive(Debug)]
pub struct NewFile<'a> {
    path: &'a Path,
    partial: PathBuf,
    file: File,
}

impl<'a> NewFile<'a> {
    /// An empty file beside `path`. It is another one than any that was begun before, which its writer may still write to.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &'a Path) -> io::Result<Self> {
        let partial = partial_name(path);
        remove(&partial)?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        Ok(Self {
            path,
            partial,
            file,
        })
    }

    /// A file without a name, to be kept as `path`.
    ///
    /// # Errors
    /// The file system's: it lies on another one than `path`, among others.
    pub fn of(path: &'a Path, file: File) -> io::Result<Self> {
        let partial = partial_name(path);
        remove(&partial)?;
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, open, CWD, &partial, AtFlags::SYMLINK_FOLLOW)?;
        Ok(Self {
            path,
            partial,
            file,
        })
    }

    /// What to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, in one step.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(self) -> io::Result<()> {
        fs::rename(&self.partial, self.path)
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // Renamed, it is not there. Half a file must not fill the disk.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Empty files without a name (`O_TMPFILE`) where [`NewFile::of`] may make one `path`; nothing of them stays otherwise. None
/// where the file system knows no such files.
pub fn unnamed(path: &Path, count: usize) -> Vec<File> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    // It is given its name by way of it.
    let count = match Path::new("/proc/self/fd").exists() {
        true => count,
        false => 0,
    };
    let files = (0..count).map_while(|_| openat(CWD, directory, flags, mode).ok());
    files.map(File::from).collect()
}

/// A new file of `owner`'s that nobody else can read, instead of one that is there.
///
/// # Errors
/// The file system's.
pub fn private_file(path: &Path, content: &[u8], owner: Option<Owner>) -> io::Result<()> {
    remove(path)?;
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    match owner {
        Some(Owner { uid, gid }) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
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
