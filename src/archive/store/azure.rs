//! Azure Blob Storage.

use std::{path::Path, sync::Arc};

use object_store::{
    ObjectStore,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
};

use super::{MountedSecrets, client_options, no_retries, read_key, required, throttle};
use crate::{api::Azure, archive::OpenError};

const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";
const ACCESS_KEY: &str = "AZURE_STORAGE_ACCOUNT_KEY";
const SAS_TOKEN: &str = "AZURE_STORAGE_SAS_TOKEN";
const EITHER: &str = "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN";

pub(super) fn open(
    azure: &Azure,
    mounted: &MountedSecrets,
    rate: Option<u64>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let options = client_options(azure.allow_http, mounted)?;
    let (builder, key) = match &mounted.credentials {
        Some(folder) => with_secret(azure, folder).map(|(builder, key)| (builder, Some(key)))?,
        // Workload identity or the node's managed identity, as the variables say.
        None => (MicrosoftAzureBuilder::from_env(), None),
    };
    let mut builder = builder
        .with_container_name(&azure.container)
        .with_client_options(options)
        .with_retry(no_retries());
    if let Some(throttle) = throttle(rate, azure.allow_http, mounted)? {
        builder = builder.with_http_connector(throttle);
    }
    if let Some(account) = &azure.account {
        builder = builder.with_account(account);
    }
    // Without an endpoint nothing but the key can be wrong, and what is wrong with it would be told with parts of it.
    if let Some((key, want)) = key
        && builder.clone().build().is_err()
    {
        return Err(OpenError::InvalidKey { key, want });
    }
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    Ok(Arc::new(builder.build()?))
}

/// A key of the Secret and what it should be.
type Key = (&'static str, &'static str);

fn with_secret(azure: &Azure, folder: &Path) -> Result<(MicrosoftAzureBuilder, Key), OpenError> {
    let builder = match &azure.account {
        Some(_) => MicrosoftAzureBuilder::new(),
        None => MicrosoftAzureBuilder::new().with_account(required(folder, ACCOUNT)?),
    };
    if let Some(key) = read_key(folder, ACCESS_KEY)? {
        let want = "an access key of the storage account, in base64";
        return Ok((builder.with_access_key(key), (ACCESS_KEY, want)));
    }
    let Some(token) = read_key(folder, SAS_TOKEN)? else {
        return Err(OpenError::MissingKey(EITHER));
    };
    let builder = builder.with_config(AzureConfigKey::SasKey, token);
    Ok((
        builder,
        (SAS_TOKEN, "a shared access signature, as in sv=…&sig=…"),
    ))
}
