//! What to do about the Lease: pure.

use std::time::Duration;

/// How long a holder may be silent before another takes the Lease.
pub const DURATION: Duration = Duration::from_secs(10);
/// How often a holder renews, and how often a candidate looks.
pub const PERIOD: Duration = Duration::from_secs(2);
/// How long a holder goes on without a renewal that succeeded. Less than [`DURATION`] by more than one request takes.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(6);

/// The Lease as it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty: released.
    pub holder: String,
    /// What a write must name, so that it fails if somebody wrote in between.
    pub resource_version: String,
    /// How often it changed hands.
    pub transitions: i32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody ever held it.
    Create,
    /// It is ours: say so again.
    Renew,
    /// It is free, or its holder is silent for too long.
    Take {
        /// How often it has changed hands, this time included.
        transitions: i32,
    },
    /// Its holder lives.
    Wait,
}

/// `silent` is how long this process, by its own monotonic clock, has seen the Lease unchanged. The times in the Lease are
/// another machine's and are compared with nothing.
pub fn decide(seen: Option<&Seen>, me: &str, silent: Duration) -> Decision {
    let Some(seen) = seen else {
        return Decision::Create;
    };
    if seen.holder == me {
        return Decision::Renew;
    }
    if seen.holder.is_empty() || silent >= DURATION {
        return Decision::Take {
            transitions: seen.transitions.saturating_add(1),
        };
    }
    Decision::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        let held_by = |holder: &str| {
            Some(Seen {
                holder: holder.into(),
                resource_version: "7".into(),
                transitions: 3,
            })
        };
        let take = Decision::Take { transitions: 4 };
        let secs = Duration::from_secs;
        for (name, seen, silent, expected) in [
            ("nobody ever", None, secs(0), Decision::Create),
            ("ours", held_by("a"), secs(0), Decision::Renew),
            ("ours, long ago", held_by("a"), secs(60), Decision::Renew),
            ("released", held_by(""), secs(0), take.clone()),
            ("another's, alive", held_by("b"), secs(9), Decision::Wait),
            ("another's, silent", held_by("b"), DURATION, take),
        ] {
            assert_eq!(decide(seen.as_ref(), "a", silent), expected, "{name}");
        }
    }

    #[test]
    fn a_holder_stops_before_another_may_take_over() {
        // The last renewal was sent at t and may have been stored at once. The holder stops by t + RENEW_DEADLINE and
        // one request's timeout at the latest; a candidate takes it at t + DURATION at the earliest.
        assert!(RENEW_DEADLINE + super::super::TIMEOUT < DURATION);
    }
}
