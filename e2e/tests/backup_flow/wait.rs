//! Bounded waits for conditions.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(90);

/// A promise was broken: waiting longer mends nothing.
#[derive(Debug)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// Asks until there is an answer. A request that fails is repeated.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if error.is::<Violation>() => return Err(error),
            other if begin.elapsed() > LIMIT => {
                bail!(
                    "{what}: not within {} s ({:?})",
                    LIMIT.as_secs(),
                    other.err()
                )
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
