//! Reading one object and judging it by itself.

use bytes::Bytes;
use object_store::{ObjectMeta, path::Path};
use serde::de::DeserializeOwned;

use super::super::{
    Lineage, ReadError, handle::said_hash, handle::unavailable, objects::Stored, sha256,
};
use super::Run;

/// What came of reading an object.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It is what was written, as far as it says itself.
    Sound(T),
    /// It is not.
    Broken(String),
    /// It is not there any more.
    Gone,
    /// It is encrypted, and no key was given.
    Locked {
        /// SHA-256 of its plain content, as it says.
        said: Option<String>,
    },
    /// It is encrypted, and none of the given keys fits.
    WrongKey,
}

/// Plain content and its hash.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) plain: Bytes,
    pub(super) sha256: String,
}

/// Reads, decodes and hashes an object.
///
/// # Errors
/// The store does not say definitely what lies there.
pub(super) async fn read(
    lineage: &Lineage,
    object: &ObjectMeta,
    limit: usize,
    run: &Run,
) -> Result<Outcome<Content>, ReadError> {
    let key = object.location.clone();
    let stored = lineage.get(&key).await;
    run.has_read(object.size);
    let Some(stored) = stored? else {
        return Ok(Outcome::Gone);
    };
    let (lineage, about) = (lineage.clone(), key.clone());
    let judged = tokio::task::spawn_blocking(move || judge(&lineage, &key, &stored, limit)).await;
    judged.unwrap_or_else(|source| {
        Err(unavailable(
            &about,
            object_store::Error::JoinError { source },
        ))
    })
}

fn judge(
    lineage: &Lineage,
    key: &Path,
    stored: &Stored,
    limit: usize,
) -> Result<Outcome<Content>, ReadError> {
    // The hash that it says is compared here, once.
    let unsaid = Stored {
        bytes: stored.bytes.clone(),
        sha256: None,
    };
    let said = match (said_hash(key, stored), said_hash(key, &unsaid)) {
        (Ok(Some(beside)), Ok(Some(within))) if beside != within => {
            let what = format!("it says SHA-256 {within}, the store keeps {beside} beside it");
            return Ok(Outcome::Broken(what));
        }
        (Ok(said), Ok(_)) => said,
        (Err(error), _) | (_, Err(error)) => return broken(error),
    };
    let plain = match lineage.decode(key, stored, limit) {
        Ok(plain) => plain,
        Err(ReadError::KeyMissing { .. }) => return Ok(Outcome::Locked { said }),
        Err(error) => return broken(error),
    };
    let found = sha256(&plain);
    match said {
        Some(said) if said != found => Ok(Outcome::Broken(format!(
            "SHA-256 is {found}, it was archived with {said}"
        ))),
        Some(_) | None => Ok(Outcome::Sound(Content {
            plain: plain.into(),
            sha256: found,
        })),
    }
}

fn broken<T>(error: ReadError) -> Result<Outcome<T>, ReadError> {
    match error {
        ReadError::Corrupt { key: _, what } => Ok(Outcome::Broken(what)),
        ReadError::NotFound { .. } => Ok(Outcome::Gone),
        ReadError::KeyMissing { .. } => Ok(Outcome::Locked { said: None }),
        ReadError::KeyWrong { .. } => Ok(Outcome::WrongKey),
        error @ ReadError::Unavailable { .. } => Err(error),
    }
}

/// No object of JSON or text is longer.
const LONGEST_TEXT: usize = 64 << 20;

/// Reads a file that is never encoded.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_file(
    lineage: &Lineage,
    object: &ObjectMeta,
    run: &Run,
) -> Result<Outcome<Content>, ReadError> {
    read(lineage, object, LONGEST_TEXT, run).await
}

/// Reads an object of JSON.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_json<T: DeserializeOwned>(
    lineage: &Lineage,
    object: &ObjectMeta,
    run: &Run,
) -> Result<Outcome<T>, ReadError> {
    let content = match read_file(lineage, object, run).await? {
        Outcome::Sound(content) => content,
        Outcome::Broken(what) => return Ok(Outcome::Broken(what)),
        Outcome::Gone => return Ok(Outcome::Gone),
        Outcome::Locked { said } => return Ok(Outcome::Locked { said }),
        Outcome::WrongKey => return Ok(Outcome::WrongKey),
    };
    Ok(match serde_json::from_slice(&content.plain) {
        Ok(value) => Outcome::Sound(value),
        Err(error) => Outcome::Broken(error.to_string()),
    })
}
