//! Google Cloud Storage.

use std::sync::Arc;

use object_store::{ObjectStore, gcp::GoogleCloudStorageBuilder};

use super::{MountedSecrets, client_options, no_retries, required, throttle};
use crate::{api::Gcs, archive::OpenError};

const KEY: &str = "key.json";

pub(super) fn open(
    gcs: &Gcs,
    mounted: &MountedSecrets,
    rate: Option<u64>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let options = client_options(gcs.allow_http, mounted)?;
    let builder = match &mounted.credentials {
        Some(folder) => {
            GoogleCloudStorageBuilder::new().with_service_account_key(required(folder, KEY)?)
        }
        // The application default credentials, or the node's metadata server: the identity of the pod's ServiceAccount.
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let mut builder = builder
        .with_bucket_name(&gcs.bucket)
        .with_client_options(options)
        .with_retry(no_retries());
    if let Some(throttle) = throttle(rate, gcs.allow_http, mounted)? {
        builder = builder.with_http_connector(throttle);
    }
    // Without an endpoint nothing but the key can be wrong, and what is wrong with it would be told with its text.
    if mounted.credentials.is_some() && builder.clone().build().is_err() {
        return Err(OpenError::InvalidKey {
            key: KEY,
            want: "the JSON key of a service account",
        });
    }
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    Ok(Arc::new(builder.build()?))
}
