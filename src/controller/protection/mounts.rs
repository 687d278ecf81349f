//! Which volume a path in a container lies on, and which volumes have claims. Pure.

use k8s_openapi::api::{
    apps::v1::StatefulSetSpec,
    core::v1::{Container, PodSpec, VolumeMount},
};

/// The mount that `path` lies on: the innermost one.
pub fn innermost<'a>(container: &'a Container, path: &str) -> Option<&'a VolumeMount> {
    container
        .volume_mounts
        .iter()
        .flatten()
        .filter(|mount| below(&mount.mount_path, path).is_some())
        .max_by_key(|mount| mount.mount_path.trim_end_matches('/').len())
}

/// `path` as the volume has it, without a leading slash.
pub fn inside(mount: &VolumeMount, path: &str) -> Option<String> {
    let rest = below(&mount.mount_path, path)?;
    let parts = [mount.sub_path.as_deref().unwrap_or_default(), rest];
    let parts: Vec<&str> = parts
        .iter()
        .map(|part| part.trim_matches('/'))
        .filter(|part| !part.is_empty())
        .collect();
    Some(parts.join("/"))
}

/// What of `path` is below `directory`, if it is.
fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

/// A volume of the pod with a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimVolume {
    /// The volume's name in the pod.
    pub volume: String,
    /// The claim: of one pod, if the StatefulSet makes one for each.
    pub claim: Claim,
}

/// Whose claim it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Each pod has its own, named `<volume>-<pod>`.
    PerPod,
    /// All pods share this one.
    Shared(String),
}

impl ClaimVolume {
    /// The claim's name for `pod`.
    pub fn claim_of(&self, pod: &str) -> String {
        match &self.claim {
            Claim::PerPod => format!("{}-{pod}", self.volume),
            Claim::Shared(name) => name.clone(),
        }
    }
}

/// Every volume with a claim that is not excluded.
pub fn included(set: &StatefulSetSpec, pod: &PodSpec, excluded: &[String]) -> Vec<ClaimVolume> {
    let templates = set
        .volume_claim_templates
        .iter()
        .flatten()
        .filter_map(|template| template.metadata.name.clone())
        .map(|volume| ClaimVolume {
            volume,
            claim: Claim::PerPod,
        });
    let shared = pod.volumes.iter().flatten().filter_map(|volume| {
        let source = volume.persistent_volume_claim.as_ref()?;
        Some(ClaimVolume {
            volume: volume.name.clone(),
            claim: Claim::Shared(source.claim_name.clone()),
        })
    });
    templates
        .chain(shared)
        .filter(|volume| !excluded.contains(&volume.volume))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        serde_json::from_value(serde_json::json!({
            "name": "db",
            "volumeMounts": [
                {"name": "data", "mountPath": "/var/lib/postgresql/data"},
                {"name": "scratch", "mountPath": "/var/lib/postgresql/data/tmp/"},
                {"name": "one", "mountPath": "/run/secrets/password", "subPath": "pw"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn the_innermost_mount_counts() {
        let container = container();
        let on = |path: &str| innermost(&container, path).map(|mount| mount.name.as_str());
        assert_eq!(on("/var/lib/postgresql/data"), Some("data"));
        assert_eq!(on("/var/lib/postgresql/data/pgdata"), Some("data"));
        assert_eq!(on("/var/lib/postgresql/data/tmp/x"), Some("scratch"));
        assert_eq!(on("/var/lib/postgresql/database"), None);
        assert_eq!(on("/"), None);
    }

    #[test]
    fn a_path_in_the_volume_knows_the_sub_path() {
        let container = container();
        let inside = |path: &str| inside(innermost(&container, path)?, path);
        assert_eq!(
            inside("/var/lib/postgresql/data/a/b").as_deref(),
            Some("a/b")
        );
        assert_eq!(inside("/run/secrets/password").as_deref(), Some("pw"));
    }
}
