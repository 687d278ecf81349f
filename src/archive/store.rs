//! Opening the store that a PgArchive names.

mod azure;
mod gcs;
mod s3;
mod throttle;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig, local::LocalFileSystem};

use self::throttle::Throttle;
use super::{OpenError, patience::Patience};
use crate::api::{PgArchiveSpec, Store, UploadLimits};

const CONNECT: Duration = Duration::from_secs(5);

/// Where a program finds the Secrets and the volume of its PgArchive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedSecrets {
    /// A folder with one file per key of the credentials Secret. Without it the pod's own identity is used.
    pub credentials: Option<PathBuf>,
    /// A PEM file with the certificate authority of the endpoint. Without it the public roots are trusted.
    pub ca_file: Option<PathBuf>,
    /// Where the volume of a directory archive is mounted.
    pub directory: PathBuf,
}

/// Opens the store. Talks to nobody yet: [`super::Archive::probe`] does.
///
/// # Errors
/// A mounted file cannot be read, or the settings make no sense.
pub fn open(
    spec: &PgArchiveSpec,
    mounted: &MountedSecrets,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let rate = rate(spec)?;
    match spec.store().ok_or(OpenError::NoStore)? {
        Store::S3(s3) => s3::open(s3, mounted, rate),
        Store::Gcs(gcs) => gcs::open(gcs, mounted, rate),
        Store::Azure(azure) => azure::open(azure, mounted, rate),
        Store::Directory(_) => open_directory(&mounted.directory),
    }
}

/// The most bytes per second that may go out. The API server has checked it where there is one.
fn rate(spec: &PgArchiveSpec) -> Result<Option<u64>, OpenError> {
    match spec.uploads().upload_bytes_per_second {
        None => Ok(None),
        Some(rate) if spec.directory.is_none() && rate.get() >= UploadLimits::SLOWEST => {
            Ok(Some(rate.get()))
        }
        Some(rate) => Err(OpenError::InvalidLimit(rate)),
    }
}

/// Where there is a limit: what keeps to it.
fn throttle(
    rate: Option<u64>,
    allow_http: Option<bool>,
    mounted: &MountedSecrets,
) -> Result<Option<Throttle>, OpenError> {
    let Some(rate) = rate else { return Ok(None) };
    let broken = |error: reqwest::Error| {
        OpenError::Store(object_store::Error::Generic {
            store: "archive",
            source: error.into(),
        })
    };
    let roots = match &mounted.ca_file {
        Some(path) => reqwest::Certificate::from_pem_bundle(&read_ca(path)?).map_err(broken)?,
        None => {
            let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
            let roots = roots.map(|root| reqwest::Certificate::from_der(root));
            roots.collect::<Result<_, _>>().map_err(broken)?
        }
    };
    // As object_store's own. How long a request may take depends on its size: whoever makes it knows.
    let client = reqwest::Client::builder()
        .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
        .https_only(!allow_http.unwrap_or(false))
        .http1_only()
        .connect_timeout(CONNECT)
        .tls_certs_only(roots);
    Ok(Some(Throttle::new(rate, client.build().map_err(broken)?)))
}

/// The store in short, for people: never a credential.
pub fn describe(spec: &PgArchiveSpec) -> String {
    let root = match spec.store() {
        Some(Store::S3(s3)) => format!("s3://{}", s3.bucket),
        Some(Store::Gcs(gcs)) => format!("gs://{}", gcs.bucket),
        Some(Store::Azure(azure)) => format!("az://{}", azure.container),
        Some(Store::Directory(directory)) => format!("pvc://{}", directory.persistent_volume_claim),
        None => return String::new(),
    };
    match spec
        .prefix
        .as_deref()
        .map(|prefix| prefix.trim_end_matches('/'))
    {
        Some(prefix) if !prefix.is_empty() => format!("{root}/{prefix}"),
        Some(_) | None => root,
    }
}

fn open_directory(directory: &Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    // Without fsync an acknowledged segment could be lost with the node.
    let store = LocalFileSystem::new_with_prefix(directory)?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

/// Ours are behind src/retry.rs: one on top of the other multiplies.
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// One key of the credentials Secret; `None` if the Secret does not have it.
fn read_key(folder: &Path, key: &str) -> Result<Option<String>, OpenError> {
    let path = folder.join(key);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Mounted {
            path: path.display().to_string(),
            source,
        }),
    }
}

fn required(folder: &Path, key: &'static str) -> Result<String, OpenError> {
    read_key(folder, key)?.ok_or(OpenError::MissingKey(key))
}

fn read_ca(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|source| OpenError::Mounted {
        path: path.display().to_string(),
        source,
    })
}

/// Root certificates come with the binary: minimal images have none, and a client without any cannot be built.
fn client_options(
    allow_http: Option<bool>,
    mounted: &MountedSecrets,
) -> Result<ClientOptions, OpenError> {
    let mut options = ClientOptions::new()
        .with_allow_http(allow_http.unwrap_or(false))
        .with_no_system_certificates(true)
        // The last resort: each request has a limit of its own, by its size.
        .with_timeout(Patience::REQUEST.longest())
        .with_connect_timeout(CONNECT);
    match &mounted.ca_file {
        Some(path) => {
            for certificate in Certificate::from_pem_bundle(&read_ca(path)?)? {
                options = options.with_root_certificate(certificate);
            }
        }
        None => {
            for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
                options = options.with_root_certificate(Certificate::from_der(root)?);
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_that_makes_no_sense_is_refused() {
        let mounted = MountedSecrets {
            credentials: None,
            ca_file: None,
            directory: "/nowhere".into(),
        };
        for (store, limit) in [
            (json!({"s3": {"bucket": "backups"}}), "1Ki"),
            (
                json!({"directory": {"persistentVolumeClaim": "wal"}}),
                "1Mi",
            ),
        ] {
            let mut spec = store;
            spec["limits"] = json!({ "uploadBytesPerSecond": limit });
            let opened = open(&serde_json::from_value(spec).unwrap(), &mounted);
            assert!(matches!(opened, Err(OpenError::InvalidLimit(_))), "{limit}");
        }
    }

    #[test]
    fn stores_in_short() {
        for (spec, short) in [
            (json!({"s3": {"bucket": "backups"}}), "s3://backups"),
            (
                json!({"s3": {"bucket": "backups"}, "prefix": "prod/"}),
                "s3://backups/prod",
            ),
            (json!({"gcs": {"bucket": "backups"}}), "gs://backups"),
            (
                json!({"azure": {"container": "backups"}, "prefix": "prod/eu/"}),
                "az://backups/prod/eu",
            ),
            (
                json!({"directory": {"persistentVolumeClaim": "wal"}}),
                "pvc://wal",
            ),
        ] {
            assert_eq!(describe(&serde_json::from_value(spec).unwrap()), short);
        }
    }
}
