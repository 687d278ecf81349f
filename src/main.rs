//! The `highwater` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before any client: with two providers in a build rustls panics at the first one otherwise. It fails only if there
    // is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    highwater::cli::Cli::parse().run()
}
