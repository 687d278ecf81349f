//! Opening the store that a PgArchive names.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{
    Certificate, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem,
};

use super::OpenError;
use crate::api::{PgArchiveSpec, S3};

/// A request that takes longer is given up; the caller tries again or compares.
const REQUEST: Duration = Duration::from_secs(60);
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
    match (&spec.s3, &spec.directory) {
        (Some(s3), _) => open_s3(s3, mounted),
        (None, Some(_)) => open_directory(&mounted.directory),
        (None, None) => Err(OpenError::NoStore),
    }
}

/// The store in short, for people: never a credential.
pub fn describe(spec: &PgArchiveSpec) -> String {
    let prefix = spec.prefix.as_deref().unwrap_or_default();
    match (&spec.s3, &spec.directory) {
        (Some(s3), _) => format!("s3://{}/{prefix}", s3.bucket),
        (None, Some(directory)) => format!("pvc://{}/{prefix}", directory.persistent_volume_claim),
        (None, None) => String::new(),
    }
}

fn open_directory(directory: &Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    // Without fsync an acknowledged segment could be lost with the node.
    let store = LocalFileSystem::new_with_prefix(directory)?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

fn open_s3(s3: &S3, mounted: &MountedSecrets) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let mut builder = match &mounted.credentials {
        Some(folder) => with_secret(AmazonS3Builder::new(), folder)?,
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_bucket_name(&s3.bucket)
        .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
        .with_allow_http(s3.allow_http.unwrap_or(false))
        .with_virtual_hosted_style_request(!s3.force_path_style.unwrap_or(s3.endpoint.is_some()))
        .with_client_options(client_options(s3, mounted)?)
        // Ours are behind src/retry.rs: one on top of the other multiplies.
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        });
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build()?))
}

fn with_secret(builder: AmazonS3Builder, folder: &Path) -> Result<AmazonS3Builder, OpenError> {
    let required = |key| read_key(folder, key)?.ok_or(OpenError::MissingKey(key));
    let builder = builder
        .with_access_key_id(required("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(required("AWS_SECRET_ACCESS_KEY")?);
    Ok(match read_key(folder, "AWS_SESSION_TOKEN")? {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

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

/// Root certificates come with the binary: minimal images have none, and a client without any cannot be built.
fn client_options(s3: &S3, mounted: &MountedSecrets) -> Result<ClientOptions, OpenError> {
    let mut options = ClientOptions::new()
        .with_allow_http(s3.allow_http.unwrap_or(false))
        .with_no_system_certificates(true)
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT);
    match &mounted.ca_file {
        Some(path) => {
            let pem = fs::read(path).map_err(|source| OpenError::Mounted {
                path: path.display().to_string(),
                source,
            })?;
            for certificate in Certificate::from_pem_bundle(&pem)? {
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
