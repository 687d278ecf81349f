//! S3 and what speaks its protocol.

use std::{path::Path, sync::Arc};

use object_store::{ObjectStore, aws::AmazonS3Builder};

use super::{MountedSecrets, client_options, no_retries, read_key, required, throttle};
use crate::{api::S3, archive::OpenError};

pub(super) fn open(
    s3: &S3,
    mounted: &MountedSecrets,
    rate: Option<u64>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let path_style = s3.force_path_style.unwrap_or(s3.endpoint.is_some());
    let mut builder = match &mounted.credentials {
        Some(folder) => with_secret(AmazonS3Builder::new(), folder)?,
        // Web identity, container credentials or the instance's, as the variables say.
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_bucket_name(&s3.bucket)
        .with_virtual_hosted_style_request(!path_style)
        .with_unsigned_payload(!signs_payload(s3))
        .with_client_options(client_options(s3.allow_http, mounted)?)
        .with_retry(no_retries());
    if let Some(throttle) = throttle(rate, s3.allow_http, mounted)? {
        builder = builder.with_http_connector(throttle);
    }
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(match path_style {
            true => endpoint.clone(),
            false => with_bucket(endpoint, &s3.bucket),
        });
    }
    Ok(Arc::new(builder.build()?))
}

fn with_secret(builder: AmazonS3Builder, folder: &Path) -> Result<AmazonS3Builder, OpenError> {
    let builder = builder
        .with_access_key_id(required(folder, "AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(required(folder, "AWS_SECRET_ACCESS_KEY")?);
    Ok(match read_key(folder, "AWS_SESSION_TOKEN")? {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

/// Whether bodies are hashed for the signature: TLS alone already tells whether they arrive as they were sent.
fn signs_payload(s3: &S3) -> bool {
    let endpoint = s3.endpoint.as_deref();
    let encrypted = match s3.allow_http {
        Some(true) => endpoint.is_some_and(|endpoint| endpoint.starts_with("https://")),
        // Others are refused.
        Some(false) | None => true,
    };
    s3.sign_payload.unwrap_or(!encrypted)
}

/// The endpoint of one bucket. `object_store` takes a virtual-hosted endpoint as it is: without the bucket in its host name
/// requests would go to a bucket named as the first folder.
fn with_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{bucket}.{rest}"),
        None => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_signed_where_nothing_else_protects_them() {
        for (settings, signs) in [
            (json!({}), false),
            (json!({"endpoint": "https://s3.example.com"}), false),
            (
                json!({"endpoint": "https://s3.example.com", "allowHttp": true}),
                false,
            ),
            (
                json!({"endpoint": "http://s3.example.com", "allowHttp": true}),
                true,
            ),
            // The environment may name one.
            (json!({"allowHttp": true}), true),
            (
                json!({"endpoint": "http://s3.example.com", "allowHttp": true, "signPayload": false}),
                false,
            ),
            (json!({"signPayload": true}), true),
        ] {
            let mut s3 = settings.clone();
            s3["bucket"] = json!("backups");
            let s3 = serde_json::from_value(s3).unwrap();
            assert_eq!(signs_payload(&s3), signs, "{settings}");
        }
    }

    #[test]
    fn the_bucket_goes_into_the_host_name() {
        for (endpoint, expected) in [
            ("https://s3.example.com", "https://backups.s3.example.com"),
            (
                "http://s3.example.com:9000/",
                "http://backups.s3.example.com:9000/",
            ),
        ] {
            assert_eq!(with_bucket(endpoint, "backups"), expected);
        }
    }
}
