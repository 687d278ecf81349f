//! Chance that can be repeated: a seed of the environment, or a new one that is printed.

use highwater::clock::{Clock, SystemClock};

/// A number of the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `HIGHWATER_SEED`, or one that was not there before.
pub fn seed() -> u64 {
    number("HIGHWATER_SEED").unwrap_or_else(|| SystemClock.now().as_microsecond().cast_unsigned())
}

/// xorshift64: the same numbers for the same seed, wherever it runs.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed | 1)
    }

    /// One of 0 to `most` - 1; 0 where there is none.
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(most).unwrap_or(0)
    }

    /// One of some; none where there is none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.below(u64::try_from(all.len()).ok()?);
        all.get(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            [0; 8].map(|_| random.below(1000))
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42), draw(4711));
        assert!(draw(42).iter().all(|number| *number < 1000));
        assert_eq!(Random::new(1).below(0), 0);
        assert_eq!(Random::new(1).one_of::<u8>(&[]), None);
    }
}
