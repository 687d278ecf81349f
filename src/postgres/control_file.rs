//! `global/pg_control`: what a cluster knows about itself while it is down.

use super::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// What a cluster was doing when it last wrote `pg_control` (`DBState` in PostgreSQL's `pg_control.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Just made by `initdb`, or starting.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// Stopped cleanly as a standby.
    ShutDownInRecovery,
    /// Stopping.
    ShuttingDown,
    /// Replaying after a crash.
    InCrashRecovery,
    /// Replaying from an archive, or following a primary.
    InArchiveRecovery,
    /// Running, or crashed while it ran.
    InProduction,
}

/// What `pg_control` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// What `initdb` gave the cluster.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's major version.
    pub major: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// The last checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// Recovery must reach this before the data is consistent; 0/0 outside archive recovery.
    pub min_recovery_point: Lsn,
    /// Whether recovery must see the end of a base backup first.
    pub backup_end_required: bool,
    /// The size of WAL segments.
    pub segment_size: SegmentSize,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
}

/// A file that is no `pg_control` of a supported version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// The file ends too early.
    #[error("failed to read pg_control: {0} bytes are too few")]
    TooShort(usize),
    /// Not one of PostgreSQL 14 to 18, or not a little-endian machine's.
    #[error(
        "failed to read pg_control: format {format}, catalog {catalog} is not one of PostgreSQL 14 to 18"
    )]
    UnknownVersion {
        /// `pg_control_version`.
        format: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// The file is damaged.
    #[error("failed to read pg_control: its checksum is wrong")]
    Checksum,
    /// A field has a value that it cannot have.
    #[error("failed to read pg_control: {0} makes no sense")]
    Field(&'static str),
}

/// The major version, and where the checksum lies.
fn layout(format: u32, catalog: u32) -> Option<(u32, usize)> {
    match (format, catalog) {
        (1300, 202_107_181) => Some((14, 288)),
        (1300, 202_209_061) => Some((15, 288)),
        (1300, 202_307_071) => Some((16, 288)),
        (1700, _) => Some((17, 288)),
        (1800, _) => Some((18, 292)),
        _ => None,
    }
}

impl ControlFile {
    /// Parses the content of `global/pg_control`, as a 64-bit little-endian machine writes it.
    ///
    /// # Errors
    /// Too short, of another version, or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let field = Fields(bytes);
        let (format, catalog) = (field.u32(8)?, field.u32(12)?);
        let (major, checksum_at) =
            layout(format, catalog).ok_or(ControlFileError::UnknownVersion { format, catalog })?;
        let covered = bytes
            .get(..checksum_at)
            .ok_or(ControlFileError::TooShort(bytes.len()))?;
        if crc32c::crc32c(covered) != field.u32(checksum_at)? {
            return Err(ControlFileError::Checksum);
        }
        Ok(Self {
            system_identifier: SystemIdentifier::new(field.u64(0)?),
            major,
            state: state(field.u32(16)?).ok_or(ControlFileError::Field("the state"))?,
            checkpoint: Lsn::new(field.u64(32)?),
            redo: Lsn::new(field.u64(40)?),
            checkpoint_timeline: TimelineId::new(field.u32(48)?)
                .ok_or(ControlFileError::Field("the timeline"))?,
            min_recovery_point: Lsn::new(field.u64(136)?),
            backup_end_required: field.u32(168)? & 0xFF != 0,
            segment_size: SegmentSize::new(field.u32(228)?)
                .map_err(|_| ControlFileError::Field("the WAL segment size"))?,
            data_checksums: field.u32(252)? != 0,
        })
    }
}

const fn state(number: u32) -> Option<ClusterState> {
    match number {
        0 => Some(ClusterState::StartingUp),
        1 => Some(ClusterState::ShutDown),
        2 => Some(ClusterState::ShutDownInRecovery),
        3 => Some(ClusterState::ShuttingDown),
        4 => Some(ClusterState::InCrashRecovery),
        5 => Some(ClusterState::InArchiveRecovery),
        6 => Some(ClusterState::InProduction),
        _ => None,
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], ControlFileError> {
        let bytes = self
            .0
            .get(at..at + N)
            .and_then(|slice| slice.try_into().ok());
        bytes.ok_or(ControlFileError::TooShort(self.0.len()))
    }

    fn u32(&self, at: usize) -> Result<u32, ControlFileError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, ControlFileError> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(format: u32, catalog: u32, checksum_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &7_391_000_000_000_000_001_u64.to_le_bytes());
        put(8, &format.to_le_bytes());
        put(12, &catalog.to_le_bytes());
        put(16, &5_u32.to_le_bytes());
        put(32, &0x0300_0060_u64.to_le_bytes());
        put(40, &0x0300_0028_u64.to_le_bytes());
        put(48, &3_u32.to_le_bytes());
        put(228, &(64_u32 << 20).to_le_bytes());
        put(252, &1_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..checksum_at]);
        bytes[checksum_at..checksum_at + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn knows_the_formats_of_14_to_18() {
        for (format, catalog, checksum_at, major) in [
            (1300, 202_107_181, 288, 14),
            (1300, 202_209_061, 288, 15),
            (1300, 202_307_071, 288, 16),
            (1700, 202_406_281, 288, 17),
            (1800, 202_506_291, 292, 18),
        ] {
            let control = ControlFile::parse(&file(format, catalog, checksum_at)).unwrap();
            assert_eq!(control.major, major);
            assert_eq!(control.state, ClusterState::InArchiveRecovery);
            assert_eq!(control.redo, Lsn::new(0x0300_0028));
            assert_eq!(control.checkpoint_timeline.get(), 3);
            assert_eq!(control.segment_size.get(), 64 << 20);
            assert!(control.data_checksums);
        }
    }

    #[test]
    fn any_flipped_byte_is_detected() {
        let good = file(1300, 202_209_061, 288);
        for at in 0..292 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(ControlFile::parse(&bad).is_err(), "{at}");
        }
        for length in 0..292 {
            assert!(ControlFile::parse(&good[..length]).is_err(), "{length}");
        }
        assert_eq!(
            ControlFile::parse(&file(1300, 202_007_201, 288)),
            Err(ControlFileError::UnknownVersion {
                format: 1300,
                catalog: 202_007_201
            })
        );
    }
}
