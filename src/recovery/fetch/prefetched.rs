//! A fetch from the prefetcher of the recovery program.

use std::{fs::File, io, path::Path, time::Duration};

use super::{
    super::{
        files,
        prefetch::{self, Files, Given},
    },
    Args, FetchConfig, Part, Wanted, part,
};
use crate::{
    postgres::{SegmentName, SegmentSize},
    telemetry::say,
};

/// How long the prefetcher may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Files without a name that each fetch leaves to it: one for this segment, one for a later one.
const FILES: usize = 2;

/// The segment that the prefetcher wrote where PostgreSQL wants it. No runtime, no client, no certificates.
pub fn take(config: &FetchConfig, args: &Args) -> Option<SegmentName> {
    let socket = config.socket.as_deref()?;
    let Wanted::Segment(name) = Wanted::parse(&args.file) else {
        return None;
    };
    let Part::UpTo(_) = part(name, config.segment_size, &config.line) else {
        return None;
    };
    let unnamed = files::unnamed(&args.destination, FILES);
    let asked = Asked {
        name,
        size: config.segment_size,
        socket,
        destination: &args.destination,
        // Half of the time stays for the archive itself.
        patience: (Duration::from_secs(config.deadline_seconds) / 2).min(PATIENCE),
    };
    let given = match unnamed.is_empty() {
        true => asked.named(),
        false => asked.unnamed(unnamed),
    };
    match given {
        Ok(true) => Some(name),
        Ok(false) => None,
        Err(error) => {
            say(format_args!("fetching {name} without prefetch: {error}"));
            None
        }
    }
}

/// What the prefetcher is asked for.
struct Asked<'a> {
    name: SegmentName,
    size: SegmentSize,
    socket: &'a Path,
    destination: &'a Path,
    patience: Duration,
}

impl Asked<'_> {
    /// In a file that has a name already. `false`: there is none to give.
    fn named(&self) -> io::Result<bool> {
        let new = files::NewFile::create(self.destination)?;
        let given = self.request(&Files::Named(new.file().try_clone()?))?;
        match given {
            Some(Given::There) if self.is_whole(new.file())? => new.keep().map(|()| true),
            Some(Given::There | Given::In(_)) | None => Ok(false),
        }
    }

    /// In one of these files, or in one that came earlier. `false`: there is none to give.
    fn unnamed(&self, files: Vec<File>) -> io::Result<bool> {
        match self.request(&Files::Unnamed(files))? {
            Some(Given::In(file)) if self.is_whole(&file)? => {
                let new = files::NewFile::of(self.destination, file)?;
                new.keep().map(|()| true)
            }
            Some(Given::In(_) | Given::There) | None => Ok(false),
        }
    }

    fn request(&self, files: &Files) -> io::Result<Option<Given>> {
        prefetch::request(self.socket, self.name, files, self.patience)
    }

    fn is_whole(&self, file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.len() == self.size.get())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::*;

    /// The file that came with a request.
    fn file(client: &UnixStream) -> File {
        let (_, mut files) = prefetch::receive_now(client, &mut [0; 25]).unwrap();
        files.pop().unwrap()
    }

    /// What comes of asking whoever does `answer`, where files have names; the file at the destination has so many bytes.
    fn asked(answer: impl FnOnce(UnixStream) + Send + 'static) -> (io::Result<bool>, Option<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let (socket, destination) = (folder.path().join("socket"), folder.path().join("segment"));
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || answer(listener.accept().unwrap().0));
        let asked = Asked {
            name: "000000010000000000000001".parse().unwrap(),
            size: SegmentSize::new(1 << 20).unwrap(),
            socket: &socket,
            destination: &destination,
            patience: Duration::from_secs(60),
        };
        let given = asked.named();
        let there = destination.metadata().ok().map(|found| found.len());
        server.join().unwrap();
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1 + usize::from(there.is_some()), "something is left");
        (given, there)
    }

    #[test]
    fn a_file_with_a_name_is_whole_or_not_there() {
        let whole = |mut client: UnixStream| {
            file(&client).write_all(&vec![7; 1 << 20]).unwrap();
            client.write_all(b"1").unwrap();
        };
        let (given, there) = asked(whole);
        assert_eq!((given.unwrap(), there), (true, Some(1 << 20)));
        let short = |mut client: UnixStream| {
            file(&client).write_all(&[7; 1000]).unwrap();
            client.write_all(b"1").unwrap();
        };
        let (given, there) = asked(short);
        assert_eq!((given.unwrap(), there), (false, None));
        let none = |mut client: UnixStream| {
            drop(file(&client));
            client.write_all(b"0").unwrap();
        };
        let (given, there) = asked(none);
        assert_eq!((given.unwrap(), there), (false, None));
        let half = |client: UnixStream| file(&client).write_all(&vec![7; 1 << 19]).unwrap();
        let (given, there) = asked(half);
        assert!(given.is_err() && there.is_none());
    }

    /// It may still write when the client has given up on it: into a file that nobody reads.
    #[test]
    fn who_writes_late_writes_into_nothing() {
        let (said, hears) = std::sync::mpsc::channel();
        let late = move |client: UnixStream| {
            let file = file(&client);
            said.send(file).unwrap();
        };
        let (given, there) = asked(late);
        assert!(given.is_err() && there.is_none());
        let mut file = hears.recv().unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
}
