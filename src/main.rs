//! The `highwater` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any client: with two providers in a build rustls panics at the first one otherwise. It fails only if there
    // is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match highwater::cli::Cli::read(std::env::args_os()) {
        Ok(cli) => cli.run(),
        Err(code) => code,
    }
}
