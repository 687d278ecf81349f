//! Logging: to standard error, as text or as JSON, one line per event.

use std::io::Write as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A line on stderr, for a program that PostgreSQL starts: its log. Where nobody reads it any more, that must not end the
/// program: `eprintln!` would.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "highwater: {text}");
}

/// Starts logging. `filter` is as in `info,highwater=debug`; one that cannot be parsed counts as `info`, and is said.
pub fn init(filter: &str, format: LogFormat) {
    let (parsed, refused) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    // Fails only if a subscriber is set already, as in tests.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Some(error) = refused {
        tracing::warn!(filter, %error, "failed to parse the log filter: using info");
    }
}
