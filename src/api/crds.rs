//! The CustomResourceDefinitions, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{PgArchive, PgBackup, PgBackupPolicy, PgProtection, PgRestore};

/// A definition that cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {name} as YAML: {cause}")]
pub struct Error {
    name: String,
    cause: String,
}

/// All of them.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        PgArchive::crd(),
        PgBackupPolicy::crd(),
        PgProtection::crd(),
        PgBackup::crd(),
        PgRestore::crd(),
    ]
}

/// One as YAML, without its empty status.
///
/// # Errors
/// If the serializer fails.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, Error> {
    let failed = |cause: String| Error {
        name: crd.metadata.name.clone().unwrap_or_default(),
        cause,
    };
    let mut value = serde_json::to_value(crd).map_err(|error| failed(error.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    serde_saphyr::to_string(&value).map_err(|error| failed(error.to_string()))
}

/// All of them as one YAML stream.
///
/// # Errors
/// If the serializer fails.
pub fn yaml() -> Result<String, Error> {
    let documents: Vec<String> = all().iter().map(to_yaml).collect::<Result<_, _>>()?;
    Ok(format!("---\n{}", documents.join("---\n")))
}
