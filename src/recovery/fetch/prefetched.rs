//! A fetch from the prefetcher of the recovery program.

use std::{fs::File, io, path::Path, time::Duration};

use super::{
    super::{
        files,
        prefetch::{self, Files, Given},
    },
    Args, FetchConfig, Part, Wanted, part,
};
use crate::{postgres::SegmentName, telemetry::say};

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
    match given(config, socket, name, &args.destination) {
        Ok(true) => Some(name),
        Ok(false) => None,
        Err(error) => {
            say(format_args!("fetching {name} without prefetch: {error}"));
            None
        }
    }
}

/// Asks the prefetcher at `socket` for `name`. `false`: it has none to give.
fn given(
    config: &FetchConfig,
    socket: &Path,
    name: SegmentName,
    destination: &Path,
) -> io::Result<bool> {
    // Half of the time stays for the archive itself.
    let patience = (Duration::from_secs(config.deadline_seconds) / 2).min(PATIENCE);
    let whole = |file: &File| io::Result::Ok(file.metadata()?.len() == config.segment_size.get());
    let unnamed = files::unnamed(destination, FILES);
    if unnamed.is_empty() {
        let new = files::NewFile::create(destination)?;
        let file = Files::Named(new.file().try_clone()?);
        let given = prefetch::request(socket, name, &file, patience)?;
        return match given {
            Some(Given::There) if whole(new.file())? => new.keep().map(|()| true),
            Some(Given::There | Given::In(_)) | None => Ok(false),
        };
    }
    match prefetch::request(socket, name, &Files::Unnamed(unnamed), patience)? {
        Some(Given::In(file)) if whole(&file)? => files::keep_as(destination, &file).map(|()| true),
        Some(Given::In(_) | Given::There) | None => Ok(false),
    }
}
