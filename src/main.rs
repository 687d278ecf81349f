//! The `highwater` program.

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    // Before anything that costs time: PostgreSQL starts it for each segment.
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = highwater::archiver::client::run(&arguments) {
        return code;
    }
    // Before any client: with two providers in a build rustls panics at the first one otherwise. It fails only if there
    // is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match highwater::cli::Cli::read(arguments) {
        Ok(cli) => cli.run(),
        Err(code) => code,
    }
}
