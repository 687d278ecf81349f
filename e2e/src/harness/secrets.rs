//! Looks for passwords and keys where they must never be.

use anyhow::{Result, bail};

use super::{Kubectl, database::PASSWORD};

/// The object store's secret key, as `manifests/policy.yaml` has it.
pub const SECRET_KEY: &str = "highwater-secret-key";

/// What an admin, a log shipper or a metrics scraper can read: objects that are no Secrets, events, logs.
const KINDS: &str =
    "pgx,pgb,pgr,pga,pgp,sts,deploy,pod,job,pvc,configmap,lease,event,volumesnapshot";

/// Looks for the planted secrets in every object, event and log of a namespace and of Highwater's own.
///
/// # Errors
/// One was found; the error says where.
pub fn none_told(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    for namespace in [namespace, "highwater-system"] {
        look(
            &format!("the objects of {namespace}"),
            &kubectl.run(&["-n", namespace, "get", KINDS, "-o", "json"])?,
        )?;
        for pod in kubectl.list(namespace, "pods")? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            // A container that has not started yet has no log.
            let log = kubectl.run(&["-n", namespace, "logs", name, "--all-containers"]);
            look(
                &format!("the log of {namespace}/{name}"),
                &log.unwrap_or_default(),
            )?;
        }
    }
    look(
        "VolumeSnapshotContents",
        &kubectl.run(&["get", "volumesnapshotcontents", "-o", "json"])?,
    )
}

fn look(place: &str, text: &str) -> Result<()> {
    for secret in [PASSWORD, SECRET_KEY] {
        if let Some(line) = text.lines().find(|line| line.contains(secret)) {
            bail!("a secret is in {place}: {}", line.trim());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found() {
        assert!(look("a log", "all is well").is_ok());
        assert!(look("a log", &format!("ok\nfailed with {PASSWORD}\n")).is_err());
        assert!(look("a log", SECRET_KEY).is_err());
    }
}
