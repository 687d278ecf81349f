//! PgArchive: where WAL and catalog live. Its status is the controller's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Azure, Gcs, SizeText, StoreFindings, named};

/// Where WAL and catalog live.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "highwater.dev",
    version = "v1alpha1",
    kind = "PgArchive",
    namespaced,
    shortname = "pga",
    category = "highwater",
    status = "PgArchiveStatus",
    doc = "PgArchive says where the WAL and the catalog of protected databases live: a bucket, or a directory on a volume.",
    printcolumn(name = "Store", type_ = "string", json_path = ".status.store"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].reason"#
    ),
    printcolumn(
        name = "CreateOnly",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="CreateOnly")].status"#,
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.directory)].exists_one(given, given)").message("give exactly one of s3, gcs, azure and directory"))]
#[x_kube(validation = Rule::new("!has(self.azure) || has(self.azure.account) || has(self.credentials)").message("name the storage account in azure.account: without credentials nothing else tells it"))]
#[x_kube(validation = Rule::new("!has(self.directory) || !has(self.limits) || !has(self.limits.uploadBytesPerSecond)").message("limits.uploadBytesPerSecond goes with a bucket: what is written to a directory is not limited"))]
#[x_kube(validation = Rule::new("(has(self.prefix) ? self.prefix : '') == (has(oldSelf.prefix) ? oldSelf.prefix : '')").message("prefix cannot be changed: what is archived would not be found any more; create a new PgArchive"))]
#[serde(rename_all = "camelCase")]
pub struct PgArchiveSpec {
    /// Put before every key, as in `prod/`. Cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches(\"^([A-Za-z0-9!_.*'()-]+/)*$\")",
        "message": "prefix must be empty or end in /, as in prod/, and hold only A-Z, a-z, 0-9, /, and !_.*'()-",
    }]))]
    pub prefix: Option<String>,
    /// A bucket of S3 or of a store that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
    /// A directory on a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
    /// The Secret with the credentials for the bucket. Without it the pod's own identity is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ArchiveCredentials>,
    /// How WAL segments are compressed. Default: zstd, level 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Encrypt WAL with age. The catalog stays in the clear. Default: not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// How much of the network and of memory uploads may take. Each agent keeps to it by itself: databases that share this
    /// archive have as much each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<UploadLimits>,
}

impl PgArchiveSpec {
    /// The limits of uploads, or the defaults.
    pub fn uploads(&self) -> UploadLimits {
        self.limits.clone().unwrap_or_default()
    }
}

/// How much of the network and of memory uploads may take.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.uploadBytesPerSecond) || !self.uploadBytesPerSecond.matches('^0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]|([0-9]|[1-5][0-9]|6[0-3])Ki|0(Mi|Gi|Ti))$')").message("uploadBytesPerSecond must be at least 64Ki"))]
#[serde(rename_all = "camelCase")]
pub struct UploadLimits {
    /// The most bytes per second that go out to the bucket, as in `100Mi`; at least 64Ki. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_bytes_per_second: Option<SizeText>,
    /// The most segments of a backlog that are on their way at once, 1 to 32. Where segments do not compress, memory may
    /// allow fewer. Default: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub parallel_uploads: Option<u8>,
}

impl UploadLimits {
    /// A slower upload would take hours for a segment.
    pub const SLOWEST: u64 = 64 << 10;
    const PARALLEL: u8 = 4;
    const MOST_PARALLEL: u8 = 32;

    /// How many segments may be on their way at once.
    pub fn parallel(&self) -> usize {
        let wanted = self.parallel_uploads.unwrap_or(Self::PARALLEL);
        wanted.clamp(1, Self::MOST_PARALLEL).into()
    }
}

/// A bucket of S3 or of a store that speaks its protocol.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http:') || (has(self.allowHttp) && self.allowHttp)").message("the endpoint is plain http: set allowHttp to true if WAL and catalog may cross the network unencrypted"))]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// The bucket's name. It must exist: Highwater makes no buckets.
    #[schemars(length(min = 3, max = 255))]
    pub bucket: String,
    /// The region. Default: us-east-1; with the pod's own identity, AWS_REGION of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// The URL of the store, for stores that are not AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https?://[^/]+')",
        "message": "endpoint must be a URL, as in https://s3.example.com",
    }]))]
    pub endpoint: Option<String>,
    /// Allow an endpoint without TLS. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// Put the bucket into the path, not into the host name. Default: true with an endpoint, false without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,
    /// Sign the bodies of requests too, which costs a hash of each. Default: only without TLS, which protects them by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_payload: Option<bool>,
    /// The Secret and key with the certificate authority of the endpoint, PEM. Default: the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
}

/// A directory on a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// The claim, in this namespace. Best ReadWriteMany: of one that is ReadWriteOnce all agents and recovery pods must run on
    /// one node, and the scheduler is asked for that.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("persistentVolumeClaim")))]
    pub persistent_volume_claim: String,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("name")))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The Secret with the credentials for the bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveCredentials {
    /// The Secret's name. Keys for s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if there is one, AWS_SESSION_TOKEN; for
    /// gcs: key.json, a service account's key; for azure: AZURE_STORAGE_ACCOUNT_NAME (or `account` in the PgArchive), and
    /// AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = named::rule("secretName")))]
    pub secret_name: String,
}

/// How WAL segments are compressed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.algorithm == 'zstd' || !has(self.level)").message("level goes with algorithm zstd"))]
#[x_kube(validation = Rule::new("!has(self.level) || self.level != 0").message("level is 1 to 19, or -7 to -1; leave it out for the default"))]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// The algorithm.
    #[serde(default)]
    pub algorithm: CompressionAlgorithm,
    /// The level of zstd: 1 to 19, or -7 to -1, which are faster and make more bytes. Default: 3. WAL that hardly shrinks, by
    /// less than a tenth in samples, is not tried hard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -7, max = 19))]
    pub level: Option<i32>,
}

/// To whom WAL is encrypted.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Public keys, each of which opens what is written from now on: age1… as age-keygen prints them, or SSH keys of type
    /// ssh-ed25519 or ssh-rsa (2048 to 4096 bits). To rotate keys change the list; what was written before stays readable
    /// with the old keys only, so keep those.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 1024)))]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.all(recipient, recipient.matches('^(age1[0-9a-z]+|ssh-ed25519 .+|ssh-rsa .+)$'))",
        "message": "each recipient must be a public key, as in age1… or ssh-ed25519 …",
    }]))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub recipients: Vec<String>,
}

/// A compression algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CompressionAlgorithm {
    /// Zstandard (RFC 8878).
    #[default]
    Zstd,
    /// LZ4 frames: less work, larger objects.
    Lz4,
    /// As PostgreSQL wrote it.
    None,
}

/// What was observed of an archive, gathered by the controller from the protections that use it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PgArchiveStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The store in short, as in `s3://bucket/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// How many protections use this archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protections: Option<i64>,
    /// What the agents found out about the store by using it: the worst of what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_findings: Option<StoreFindings>,
    /// `Available`: every agent that uses the store could write and read it back. `CreateOnly`: the store keeps two writers
    /// from overwriting each other. `ClockInStep`: its clock is less than five minutes from the agents'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
