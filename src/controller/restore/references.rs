//! Secrets and ConfigMaps that a clone's pods name. They are referenced as they are, and Highwater may read none of them: what
//! is missing the kubelet alone can tell. Pure.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value as Json;

/// What a pod cannot start without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Their names, those included that images are pulled with.
    pub secrets: BTreeSet<String>,
    /// Their names.
    pub config_maps: BTreeSet<String>,
}

impl References {
    /// Of a pod with this spec.
    pub fn of(pod: &PodSpec) -> Self {
        let mut found = Self::default();
        // By the names of fields, as volumes of any kind may have some.
        if let Ok(pod) = serde_json::to_value(pod) {
            found.walk(&pod);
        }
        found
    }

    /// Nothing.
    pub fn is_empty(&self) -> bool {
        let Self {
            secrets,
            config_maps,
        } = self;
        secrets.is_empty() && config_maps.is_empty()
    }

    fn walk(&mut self, value: &Json) {
        match value {
            Json::Object(fields) => {
                for (name, field) in fields {
                    self.look(name, field);
                }
            }
            Json::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    fn look(&mut self, field: &str, value: &Json) {
        if value["optional"] == true {
            return;
        }
        let named = value["name"].as_str().map(str::to_owned);
        match field {
            "secretName" => self.secrets.extend(value.as_str().map(str::to_owned)),
            "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                self.secrets.extend(named);
            }
            "configMap" | "configMapRef" | "configMapKeyRef" => self.config_maps.extend(named),
            "imagePullSecrets" => {
                let names = value.as_array().into_iter().flatten();
                let names = names.filter_map(|secret| secret["name"].as_str());
                self.secrets.extend(names.map(str::to_owned));
            }
            _ => {}
        }
        self.walk(value);
    }
}

impl fmt::Display for References {
    /// As in `Secrets a, b and ConfigMap c`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |kind: &str, names: &BTreeSet<String>| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match names[..] {
                [] => None,
                [name] => Some(format!("{kind} {name}")),
                _ => Some(format!("{kind}s {}", names.join(", "))),
            }
        };
        let Self {
            secrets,
            config_maps,
        } = self;
        let kinds = [listed("Secret", secrets), listed("ConfigMap", config_maps)];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        f.write_str(&kinds.join(" and "))
    }
}

/// Whether the kubelet waits for a Secret or ConfigMap, or a key in one, that is not there.
pub fn is_missing(said: &str) -> bool {
    let kinds = ["secret", "configmap"];
    let said = said.to_lowercase();
    let not_there = ["not found", "non-existent", "couldn't find key"];
    kinds.iter().any(|kind| said.contains(kind)) && not_there.iter().any(|it| said.contains(it))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(pod: Json) -> String {
        References::of(&serde_json::from_value(pod).unwrap()).to_string()
    }

    #[test]
    fn everything_that_a_pod_names_and_cannot_start_without() {
        let container = json!({"name": "db", "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "password", "key": "k"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "maybe", "key": "k", "optional": true}}},
            {"name": "D", "value": "secretName"},
        ]});
        let init = json!({"name": "init", "envFrom": [
            {"secretRef": {"name": "all"}}, {"configMapRef": {"name": "all-settings"}},
            {"configMapRef": {"name": "maybe", "optional": true}},
        ]});
        let volumes = json!([
            {"name": "a", "secret": {"secretName": "tls"}},
            {"name": "b", "configMap": {"name": "files"}},
            {"name": "c", "secret": {"secretName": "maybe", "optional": true}},
            {"name": "d", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "other-part"}}]}},
            {"name": "e", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "driver"}}},
            {"name": "f", "azureFile": {"secretName": "share", "shareName": "s"}},
            {"name": "g", "iscsi": {"iqn": "i", "lun": 0, "targetPortal": "t", "secretRef": {"name": "chap"}}},
            {"name": "h", "emptyDir": {}},
        ]);
        assert_eq!(
            of(
                json!({"containers": [container], "initContainers": [init], "volumes": volumes, "imagePullSecrets": [{"name": "registry"}]})
            ),
            "Secrets all, chap, driver, part, password, registry, share, tls and ConfigMaps all-settings, files, other-part, settings"
        );
        assert_eq!(
            of(json!({"containers": [], "imagePullSecrets": [{"name": "registry"}]})),
            "Secret registry"
        );
        let nothing = References::of(&PodSpec::default());
        assert!(nothing.is_empty());
    }

    /// As kubelets say it.
    #[test]
    fn what_is_missing_is_told_from_other_trouble() {
        for said in [
            "CreateContainerConfigError secret \"orders\" not found",
            "CreateContainerConfigError configmap \"settings\" not found",
            "CreateContainerConfigError couldn't find key password in Secret shop/orders",
            "MountVolume.SetUp failed for volume \"tls\" : secret \"tls\" not found",
            "MountVolume.SetUp failed for volume \"tls\" : references non-existent secret key: ca.crt",
        ] {
            assert!(is_missing(said), "{said}");
        }
        for said in [
            "ImagePullBackOff Back-off pulling image \"pg:15\"",
            "0/3 nodes are available: persistentvolumeclaim \"data\" not found",
            "CrashLoopBackOff back-off 10s restarting failed container",
        ] {
            assert!(!is_missing(said), "{said}");
        }
    }
}
