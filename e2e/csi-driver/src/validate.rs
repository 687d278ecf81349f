//! Checks of requests, without I/O.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;

use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::{CapacityRange, VolumeCapability};

/// The capacity of a volume when nothing is asked for.
pub const DEFAULT_CAPACITY: i64 = 1 << 30;

/// The field must be given.
pub fn required<'a>(value: &'a str, field: &str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(Status::invalid_argument(format!("{field} is missing")));
    }
    Ok(value)
}

/// The capability must be one this driver has: a file system, used on one node.
pub fn capability(capability: Option<&VolumeCapability>) -> Result<(), Status> {
    let Some(capability) = capability else {
        return Err(Status::invalid_argument("volume capability is missing"));
    };
    match &capability.access_type {
        Some(AccessType::Mount(_)) => {}
        Some(AccessType::Block(_)) => {
            return Err(Status::invalid_argument("block volumes are not supported"));
        }
        None => return Err(Status::invalid_argument("access type is missing")),
    }
    match capability.access_mode.map(|mode| mode.mode()) {
        None | Some(Mode::Unknown) => Err(Status::invalid_argument("access mode is missing")),
        Some(
            Mode::SingleNodeWriter
            | Mode::SingleNodeReaderOnly
            | Mode::SingleNodeSingleWriter
            | Mode::SingleNodeMultiWriter,
        ) => Ok(()),
        Some(
            mode @ (Mode::MultiNodeReaderOnly
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter),
        ) => Err(Status::invalid_argument(format!(
            "access mode {} is not supported",
            mode.as_str_name()
        ))),
    }
}

/// All capabilities must be ones this driver has, and there must be one.
pub fn capabilities(all: &[VolumeCapability]) -> Result<(), Status> {
    if all.is_empty() {
        return Err(Status::invalid_argument("volume capabilities are missing"));
    }
    all.iter().try_for_each(|one| capability(Some(one)))
}

/// The capacity of a new volume that must hold `content` bytes.
pub fn new_capacity(range: Option<&CapacityRange>, content: i64) -> Result<i64, Status> {
    let range = range.copied().unwrap_or_default();
    if range.required_bytes < 0 || range.limit_bytes < 0 {
        return Err(Status::invalid_argument("capacity range is negative"));
    }
    let capacity = match (range.required_bytes, range.limit_bytes) {
        (0, 0) => DEFAULT_CAPACITY.max(content),
        (0, limit) => DEFAULT_CAPACITY.max(content).min(limit),
        (required, _) => required,
    };
    if !fits(capacity, &range) || capacity < content {
        return Err(Status::out_of_range(format!(
            "capacity {capacity} is not possible: at least {content} is needed, at most {} allowed",
            range.limit_bytes
        )));
    }
    Ok(capacity)
}

/// Does an existing volume satisfy the range?
pub fn fits(capacity: i64, range: &CapacityRange) -> bool {
    capacity >= range.required_bytes && (range.limit_bytes == 0 || capacity <= range.limit_bytes)
}

/// What the sidecars say about the object in Kubernetes.
pub fn labels(parameters: &HashMap<String, String>) -> BTreeMap<String, String> {
    let ours = parameters
        .iter()
        .filter(|(key, _)| key.starts_with("csi.storage.k8s.io/"));
    ours.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// One page of a list: the entries and the token of the next page, empty after the last one.
pub fn page<T>(all: Vec<T>, token: &str, max: i32) -> Result<(Vec<T>, String), Status> {
    let total = all.len();
    let start = match token {
        "" => 0,
        text => text
            .parse()
            .ok()
            .filter(|start| *start < total)
            .ok_or_else(|| {
                Status::aborted("starting_token is not one of this list; begin again")
            })?,
    };
    let max =
        usize::try_from(max).map_err(|_| Status::invalid_argument("max_entries is negative"))?;
    let count = if max == 0 { total } else { max };
    let next = start + count;
    let token = if next < total {
        next.to_string()
    } else {
        String::new()
    };
    Ok((all.into_iter().skip(start).take(count).collect(), token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn range(required_bytes: i64, limit_bytes: i64) -> CapacityRange {
        CapacityRange {
            required_bytes,
            limit_bytes,
        }
    }

    #[test]
    fn capacity_is_within_the_range_and_holds_the_content() {
        let given = |r, l, content| new_capacity(Some(&range(r, l)), content).ok();
        assert_eq!(new_capacity(None, 0).ok(), Some(DEFAULT_CAPACITY));
        assert_eq!(new_capacity(None, 5 << 30).ok(), Some(5 << 30));
        assert_eq!(given(7, 0, 0), Some(7));
        assert_eq!(given(7, 9, 7), Some(7));
        assert_eq!(given(0, 9, 0), Some(9));
        assert_eq!(given(7, 9, 8), None);
        assert_eq!(given(9, 7, 0), None);
        assert_eq!(given(-1, 0, 0), None);
    }

    #[test]
    fn only_file_systems_on_one_node() {
        let of = |access_type, mode: Mode| {
            let access_mode = Some(AccessMode { mode: mode.into() });
            capability(Some(&VolumeCapability {
                access_type,
                access_mode,
            }))
            .is_ok()
        };
        let mount = || Some(AccessType::Mount(MountVolume::default()));
        assert!(of(mount(), Mode::SingleNodeWriter));
        assert!(!of(mount(), Mode::MultiNodeMultiWriter));
        assert!(!of(mount(), Mode::Unknown));
        assert!(!of(None, Mode::SingleNodeWriter));
        assert!(!of(
            Some(AccessType::Block(BlockVolume {})),
            Mode::SingleNodeWriter
        ));
        assert!(capability(None).is_err());
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all = vec![1, 2, 3];
        assert_eq!(
            page(all.clone(), "", 0).unwrap(),
            (vec![1, 2, 3], String::new())
        );
        assert_eq!(
            page(all.clone(), "", 2).unwrap(),
            (vec![1, 2], "2".to_owned())
        );
        assert_eq!(page(all.clone(), "2", 2).unwrap(), (vec![3], String::new()));
        assert!(page(all.clone(), "3", 2).is_err());
        assert!(page(all.clone(), "token", 2).is_err());
        assert!(page(all, "", -1).is_err());
    }
}
