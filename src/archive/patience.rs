//! How long a request may take.

use std::time::Duration;

use crate::api::UploadLimits;

const MIB: u64 = 1 << 20;

/// How long a request may take: the longer, the more goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the request and its answer.
    pub request: Duration,
    /// For each MiB of payload, begun or whole.
    pub per_mib: Duration,
}

impl Patience {
    /// A segment of 1 GiB has 18 minutes, and 1 MiB/s is enough for any.
    pub const REQUEST: Self = Self {
        request: Duration::from_secs(60),
        per_mib: Duration::from_secs(1),
    };

    /// Where uploads are held back, they may take as long as that makes them: each shares the rate with the others that are
    /// on their way.
    #[must_use]
    pub fn slowed(self, limits: &UploadLimits) -> Self {
        let Some(rate) = limits.upload_bytes_per_second else {
            return self;
        };
        // Tails, backups and the clock go beside segments.
        let shares = limits.parallel() as u64 + 2;
        let more = Duration::from_millis(1000 * MIB * shares / rate.get().max(1));
        Self {
            per_mib: self.per_mib.saturating_add(more),
            ..self
        }
    }

    /// For a payload of `bytes`.
    pub fn of(self, bytes: u64) -> Duration {
        let mebibytes = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        self.request
            .saturating_add(self.per_mib.saturating_mul(mebibytes))
    }

    /// For the largest object: a segment of 1 GiB that does not compress, and its frame.
    pub fn longest(self) -> Duration {
        self.of(1025 * MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_may_take_as_long_as_that_takes() {
        let limits = |rate: &str, parallel| UploadLimits {
            upload_bytes_per_second: Some(rate.parse().unwrap()),
            parallel_uploads: Some(parallel),
        };
        let of = |limits: &UploadLimits| Patience::REQUEST.slowed(limits).of(16 << 20).as_secs();
        // 16 MiB alone at 256 KiB/s take 64 s, and four at once 256 s.
        assert!(of(&limits("256Ki", 1)) > 64 + 60);
        assert!(of(&limits("256Ki", 4)) > 4 * 64 + 60);
        assert!(of(&limits("64Ki", 32)) > 32 * 256 + 60);
        assert_eq!(of(&UploadLimits::default()), 76);
    }

    #[test]
    fn more_takes_longer() {
        let seconds = |bytes| Patience::REQUEST.of(bytes).as_secs();
        assert_eq!(seconds(0), 60);
        assert_eq!(seconds(1), 61);
        assert_eq!(seconds(16 << 20), 76);
        assert_eq!(seconds(1 << 30), 60 + 1024);
        assert!(Patience::REQUEST.longest() > Patience::REQUEST.of(1 << 30));
        assert!(Patience::REQUEST.of(u64::MAX) > Patience::REQUEST.longest());
    }
}
