//! The stores that a PgArchive may name, and what is found out about one by using it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Directory, PgArchiveSpec, S3, SecretKey};

/// The one store that a PgArchive names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Store<'a> {
    /// S3 or what speaks its protocol.
    S3(&'a S3),
    /// Google Cloud Storage.
    Gcs(&'a Gcs),
    /// Azure Blob Storage.
    Azure(&'a Azure),
    /// A directory on a volume.
    Directory(&'a Directory),
}

impl PgArchiveSpec {
    /// The store; `None` only where the schema's rule, exactly one, was not asked.
    pub fn store(&self) -> Option<Store<'_>> {
        let s3 = self.s3.as_ref().map(Store::S3);
        let gcs = self.gcs.as_ref().map(Store::Gcs);
        let azure = self.azure.as_ref().map(Store::Azure);
        let directory = self.directory.as_ref().map(Store::Directory);
        s3.or(gcs).or(azure).or(directory)
    }

    /// The certificate authority of the store's endpoint, where it is none of the public ones.
    pub fn ca_secret(&self) -> Option<&SecretKey> {
        match self.store()? {
            Store::S3(s3) => s3.ca_secret.as_ref(),
            Store::Gcs(gcs) => gcs.ca_secret.as_ref(),
            Store::Azure(azure) => azure.ca_secret.as_ref(),
            Store::Directory(_) => None,
        }
    }
}

/// A bucket of Google Cloud Storage.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http:') || (has(self.allowHttp) && self.allowHttp)").message("the endpoint is plain http: set allowHttp to true if WAL and catalog may cross the network unencrypted"))]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// The bucket's name. It must exist: Highwater makes no buckets.
    #[schemars(length(min = 3, max = 222))]
    pub bucket: String,
    /// The URL of the XML API, for private endpoints. Default: https://storage.googleapis.com.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https?://[^/]+')",
        "message": "endpoint must be a URL, as in https://storage.example.com",
    }]))]
    pub endpoint: Option<String>,
    /// Allow an endpoint without TLS. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// The Secret and key with the certificate authority of the endpoint, PEM. Default: the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
}

/// A container of Azure Blob Storage.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http:') || (has(self.allowHttp) && self.allowHttp)").message("the endpoint is plain http: set allowHttp to true if WAL and catalog may cross the network unencrypted"))]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// The container's name. It must exist: Highwater makes no containers.
    #[schemars(length(min = 3, max = 63))]
    pub container: String,
    /// The storage account. Default: AZURE_STORAGE_ACCOUNT_NAME of the credentials Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[a-z0-9]{3,24}$')",
        "message": "account must be the name of a storage account: 3 to 24 of a-z and 0-9",
    }]))]
    pub account: Option<String>,
    /// The URL of the account, for private endpoints and other clouds. Default: https://<account>.blob.core.windows.net.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https?://[^/]+')",
        "message": "endpoint must be a URL, as in https://account.blob.core.windows.net",
    }]))]
    pub endpoint: Option<String>,
    /// Allow an endpoint without TLS. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// The Secret and key with the certificate authority of the endpoint, PEM. Default: the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
}

/// What was found out about a store by using it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreFindings {
    /// Whether the store itself keeps two writers from overwriting each other: of several that create one object at the
    /// same time, one wins. Without it Highwater looks before it writes and compares afterwards.
    pub create_only: bool,
    /// Whether the store keeps the hash that is put beside an object. Without it hashes are made from the content.
    pub metadata: bool,
    /// How far the store's clock is ahead of the agent's (negative: behind), in seconds, cut to whole minutes. From five
    /// minutes on it is a warning: stores refuse requests that are signed with a wrong time.
    pub clock_skew_seconds: i64,
}
