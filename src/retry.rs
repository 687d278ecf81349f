//! The one retry policy: pauses that grow, with jitter, up to a limit. What is tried must be idempotent, or end in a
//! comparison.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// How long and how often something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// No new try begins after this.
    pub give_up_after: Duration,
}

impl Policy {
    /// One try.
    pub const ONCE: Self = Self {
        first: Duration::ZERO,
        longest: Duration::ZERO,
        give_up_after: Duration::ZERO,
    };

    /// A request to a store that others wait for: a few tries within seconds. Who can wait longer tries again.
    pub const REQUEST: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(2),
        give_up_after: Duration::from_secs(6),
    };

    fn backoff(self) -> ExponentialBackoff {
        ExponentialBackoffBuilder::new()
            .with_initial_interval(self.first)
            .with_max_interval(self.longest)
            .with_max_elapsed_time(Some(self.give_up_after))
            .build()
    }
}

/// A try that failed.
#[derive(Debug)]
pub enum Failure<E> {
    /// The next try may succeed.
    Transient(E),
    /// No try will.
    Permanent(E),
}

/// Tries until it succeeds, fails for good, or `policy` gives up.
///
/// # Errors
/// The last failure.
pub async fn run<T, E, F>(policy: Policy, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, Failure<E>>>,
{
    if policy == Policy::ONCE {
        return attempt().await.map_err(|failure| match failure {
            Failure::Transient(error) | Failure::Permanent(error) => error,
        });
    }
    backoff::future::retry(policy.backoff(), || {
        let tried = attempt();
        async {
            tried.await.map_err(|failure| match failure {
                Failure::Transient(error) => backoff::Error::transient(error),
                Failure::Permanent(error) => backoff::Error::permanent(error),
            })
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const QUICK: Policy = Policy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        give_up_after: Duration::from_millis(300),
    };

    async fn tries(policy: Policy, fails: u32, permanent: bool) -> (Result<u32, u32>, u32) {
        let count = Cell::new(0);
        let result = run(policy, || {
            count.set(count.get() + 1);
            let now = count.get();
            async move {
                match (now > fails, permanent) {
                    (true, _) => Ok(now),
                    (false, true) => Err(Failure::Permanent(now)),
                    (false, false) => Err(Failure::Transient(now)),
                }
            }
        });
        (result.await, count.get())
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again() {
        assert_eq!(tries(QUICK, 2, false).await, (Ok(3), 3));
        assert_eq!(tries(QUICK, 2, true).await, (Err(1), 1));
        assert_eq!(tries(Policy::ONCE, 2, false).await, (Err(1), 1));
    }

    #[tokio::test]
    async fn it_ends() {
        // Long enough for a machine that is busy.
        let policy = Policy {
            give_up_after: Duration::from_secs(2),
            ..QUICK
        };
        let (result, count) = tries(policy, u32::MAX, false).await;
        assert!(result.is_err() && count > 2, "{count}");
    }
}
