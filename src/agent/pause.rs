//! Pauses between tries: longer each time, spread, never for ever.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Pauses that double from a first to a longest one.
#[derive(Clone, Debug)]
pub struct Pause {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pause {
    /// Starts at `first`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next pause: half to the whole of its length.
    pub fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.longest);
        let jitter =
            u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default();
        whole / 2 + (whole / 2).mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }

    /// The next pause is the first again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_longest_and_starts_again() {
        let second = Duration::from_secs(1);
        let mut pause = Pause::new(second, 4 * second);
        for whole in [second, 2 * second, 4 * second, 4 * second] {
            let next = pause.next();
            assert!(next >= whole / 2 && next <= whole, "{next:?} of {whole:?}");
        }
        pause.reset();
        assert!(pause.next() <= second);
    }
}
