//! What can go wrong between us and a store. An outage is never "not found".

use object_store::Error as StoreError;

/// Why an archive cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A mounted file cannot be read.
    #[error("failed to read {path}: {source}")]
    Mounted {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A credential is missing in the Secret.
    #[error("the credentials Secret of the PgArchive has no key {0}: add it")]
    MissingKey(&'static str),
    /// The store's settings make no sense.
    #[error("failed to open the store: {0}")]
    Store(#[from] StoreError),
    /// Neither s3 nor directory.
    #[error("the PgArchive names no store: give exactly one of s3 and directory")]
    NoStore,
}

impl OpenError {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Mounted { .. } | Self::MissingKey(_) => "CredentialsUnreadable",
            Self::Store(_) | Self::NoStore => "InvalidArchive",
        }
    }
}

/// What a store's refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bucket does not exist; some stores say the same of an unknown key id.
    BucketNotFound,
    /// The credentials are refused.
    AccessDenied,
    /// No answer, or none that is definite.
    Unavailable,
}

impl Fault {
    /// Of an error that is about the store, not about one object.
    pub fn of(error: &StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::BucketNotFound,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                Self::AccessDenied
            }
            // Anything else, and what later versions add.
            other if says_forbidden(other) => Self::AccessDenied,
            other if says_no_bucket(other) => Self::BucketNotFound,
            _ => Self::Unavailable,
        }
    }

    /// For condition, event and metric.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BucketNotFound => "BucketNotFound",
            Self::AccessDenied => "AccessDenied",
            Self::Unavailable => "ArchiveUnavailable",
        }
    }

    /// What to do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::BucketNotFound => {
                "create the bucket or correct the PgArchive; some stores answer the same to an access key id they do not know: check AWS_ACCESS_KEY_ID too"
            }
            Self::AccessDenied => {
                "check the credentials Secret of the PgArchive and what it may do in the bucket"
            }
            Self::Unavailable => {
                "check the endpoint of the PgArchive and the network to it; it is tried again"
            }
        }
    }
}

// The generic error carries the server's answer as text alone; it only chooses between two sentences.
fn says_forbidden(error: &StoreError) -> bool {
    let text = format!("{error:?}");
    [
        "SignatureDoesNotMatch",
        "AccessDenied",
        "InvalidAccessKeyId",
        "403",
    ]
    .iter()
    .any(|word| text.contains(word))
}

fn says_no_bucket(error: &StoreError) -> bool {
    format!("{error:?}").contains("NoSuchBucket")
}

/// Why an archive cannot be used, found by writing to it and reading back.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The store refused.
    #[error("failed to {verb} {key}: {source}; {}", fault.hint())]
    Store {
        /// What was tried.
        verb: &'static str,
        /// The probe's key.
        key: String,
        /// What it means.
        fault: Fault,
        /// What the store said.
        source: StoreError,
    },
    /// What was read is not what was written.
    #[error("failed to read back {0}: the store returned other bytes than were written")]
    Different(String),
}

impl ProbeError {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Store { fault, .. } => fault.reason(),
            Self::Different(_) => "ArchiveCorrupt",
        }
    }
}

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such object, in an archive whose identity object could be read.
    #[error("{key} is not in the archive")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The store did not answer, or not definitely.
    #[error("failed to read {key}: {source}; {}", Fault::of(source).hint())]
    Unavailable {
        /// The key.
        key: String,
        /// What the store said.
        source: StoreError,
    },
    /// It is there, and not what was written.
    #[error("failed to read {key}: {what}")]
    Corrupt {
        /// The key.
        key: String,
        /// How it is broken.
        what: String,
    },
}

impl ReadError {
    /// For condition, event and metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotInArchive",
            Self::Unavailable { source, .. } => Fault::of(source).reason(),
            Self::Corrupt { .. } => "ArchiveCorrupt",
        }
    }
}

/// Why something cannot be archived.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Another content lies under that name already. Nothing is overwritten.
    #[error(
        "failed to archive {key}: the archive holds other content under this name: ours has SHA-256 {ours}, theirs {theirs}; another cluster may write to the same archive"
    )]
    Conflict {
        /// The key.
        key: String,
        /// SHA-256 of the plain content to be archived.
        ours: String,
        /// The same of what lies there.
        theirs: String,
    },
    /// The store did not take it, or did not say definitely that it has it.
    #[error("failed to archive {key}: {source}; {}", Fault::of(source).hint())]
    Unavailable {
        /// The key.
        key: String,
        /// What the store said.
        source: StoreError,
    },
    /// It cannot be compressed or written as JSON.
    #[error("failed to encode {key}: {what}")]
    Encode {
        /// The key.
        key: String,
        /// Why.
        what: String,
    },
    /// What lies there cannot be read, so nothing is known of its content.
    #[error(transparent)]
    Compare(#[from] ReadError),
}

impl PushError {
    /// For condition, event and metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "ContentConflict",
            Self::Unavailable { source, .. } => Fault::of(source).reason(),
            Self::Encode { .. } => "EncodeFailed",
            Self::Compare(error) => error.reason(),
        }
    }
}
