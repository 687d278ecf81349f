//! What can go wrong between us and a store. An outage is never "not found".

use std::fmt;

use object_store::{
    Error as StoreError,
    client::{HttpError, HttpErrorKind},
};

use crate::api::SizeText;

/// Something is encrypted, and no key was given.
pub(crate) const KEY_MISSING: &str = "DecryptionKeyMissing";
/// Something is encrypted, and the keys that were given do not fit.
pub(crate) const KEY_WRONG: &str = "DecryptionKeyWrong";
/// What to do about both.
const DECRYPTION: &str = "PgRestore.spec.decryption names Secret and key of a file of age identities or SSH private keys: create a new PgRestore with one that holds the key of each generation that the restore reads";

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
    /// A credential is not what its name says. Its text is not told.
    #[error("the key {key} of the credentials Secret of the PgArchive is not {want}: copy it anew")]
    InvalidKey {
        /// Which.
        key: &'static str,
        /// What it should be.
        want: &'static str,
    },
    /// The store's settings make no sense.
    #[error("failed to open the store: {0}")]
    Store(#[from] StoreError),
    /// What is to be encrypted to is no public key.
    #[error(
        "encryption.recipients[{position}] of the PgArchive is no recipient: {cause}; give public keys as age-keygen -y prints them, or of SSH"
    )]
    InvalidRecipient {
        /// Its position in the list, from 0.
        position: usize,
        /// Why.
        cause: String,
    },
    /// The file with the private keys is not there.
    #[error("failed to read the decryption key: there is no file {0}; {DECRYPTION}")]
    IdentityMissing(String),
    /// It is there, and is no file of identities.
    #[error("failed to read the decryption key {path}: {what}; {DECRYPTION}")]
    InvalidIdentity {
        /// Which file.
        path: String,
        /// Why not; never any of its content.
        what: String,
    },
    /// The limit of uploads cannot be kept.
    #[error(
        "limits.uploadBytesPerSecond of the PgArchive is {0}: give at least 64Ki, and none for a directory"
    )]
    InvalidLimit(SizeText),
    /// None of s3, gcs, azure and directory.
    #[error("the PgArchive names no store: give exactly one of s3, gcs, azure and directory")]
    NoStore,
}

impl OpenError {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Mounted { .. } | Self::MissingKey(_) | Self::InvalidKey { .. } => {
                "CredentialsUnreadable"
            }
            Self::Store(_) | Self::NoStore | Self::InvalidLimit(_) => "InvalidArchive",
            Self::InvalidRecipient { .. } => "InvalidRecipient",
            Self::IdentityMissing(_) => KEY_MISSING,
            Self::InvalidIdentity { .. } => "InvalidDecryptionKey",
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
    /// Nobody answers at the endpoint.
    EndpointUnreachable,
    /// The endpoint's certificate is not trusted.
    CertificateNotTrusted,
    /// The store refuses the time that a request is signed with.
    ClockSkewed,
    /// A directory that cannot be written or read.
    DirectoryUnusable,
    /// No answer, or none that is definite.
    Unavailable,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::BucketNotFound,
        Self::AccessDenied,
        Self::EndpointUnreachable,
        Self::CertificateNotTrusted,
        Self::ClockSkewed,
        Self::DirectoryUnusable,
        Self::Unavailable,
    ];

    /// Of an error that is about the store, not about one object.
    pub fn of(error: &StoreError) -> Self {
        if of_directory(error) {
            return Self::DirectoryUnusable;
        }
        match (error, code(error).as_deref().and_then(Self::of_code)) {
            (_, Some(fault)) => fault,
            (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, None) => {
                Self::AccessDenied
            }
            (StoreError::NotFound { .. }, None) => Self::BucketNotFound,
            (error, None) => Self::of_connection(error),
        }
    }

    /// What the codes of S3, Google Cloud Storage, Azure and of those who hand out tokens mean. Codes of one object, and
    /// those that a second try may not meet, mean nothing here.
    fn of_code(code: &str) -> Option<Self> {
        match code {
            "NoSuchBucket"
            | "ContainerNotFound"
            | "ContainerBeingDeleted"
            | "ContainerDisabled" => Some(Self::BucketNotFound),
            "RequestTimeTooSkewed" | "RequestExpired" => Some(Self::ClockSkewed),
            "AccessDenied"
            | "AllAccessDisabled"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidAccessKeyId"
            | "InvalidIdentityToken"
            | "InvalidSecurity"
            | "InvalidToken"
            | "SignatureDoesNotMatch"
            | "XAdminUserNotFound" => Some(Self::AccessDenied),
            "AccountProblem" | "AuthenticationRequired" | "UserProjectAccountProblem" => {
                Some(Self::AccessDenied)
            }
            "AccountIsDisabled"
            | "AuthenticationFailed"
            | "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "AuthorizationProtocolMismatch"
            | "AuthorizationResourceTypeMismatch"
            | "AuthorizationServiceMismatch"
            | "AuthorizationSourceIPMismatch"
            | "InsufficientAccountPermissions"
            | "InvalidAuthenticationInfo"
            | "KeyBasedAuthenticationNotPermitted"
            | "NoAuthenticationInformation"
            | "PublicAccessNotPermitted" => Some(Self::AccessDenied),
            // RFC 6749, 5.2: of Google's and Microsoft's token endpoints.
            "invalid_client" | "invalid_grant" | "unauthorized_client" => Some(Self::AccessDenied),
            _ => None,
        }
    }

    fn of_connection(error: &StoreError) -> Self {
        let kinds = || causes(error).filter_map(|cause| cause.downcast_ref::<HttpError>());
        let says = |word| causes(error).any(|cause| cause.to_string().contains(word));
        // The TLS library's error is not reachable by type through the HTTP client.
        if says("invalid peer certificate") {
            Self::CertificateNotTrusted
        } else if kinds().any(|error| error.kind() == HttpErrorKind::Connect) {
            Self::EndpointUnreachable
        } else {
            Self::Unavailable
        }
    }

    /// For condition, event and metric.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BucketNotFound => "BucketNotFound",
            Self::AccessDenied => "AccessDenied",
            Self::EndpointUnreachable => "EndpointUnreachable",
            Self::CertificateNotTrusted => "CertificateNotTrusted",
            Self::ClockSkewed => "ClockSkewed",
            Self::DirectoryUnusable => "DirectoryUnusable",
            Self::Unavailable => "ArchiveUnavailable",
        }
    }

    /// What to do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::BucketNotFound => {
                "create the bucket or container, or correct the PgArchive; some stores answer the same to an access key id or account that they do not know: check the credentials Secret too"
            }
            Self::AccessDenied => {
                "check the credentials Secret of the PgArchive and what it may do in the bucket"
            }
            Self::EndpointUnreachable => {
                "check the endpoint of the PgArchive, for azure the account's name, and the network to it; it is tried again"
            }
            Self::CertificateNotTrusted => {
                "give the certificate authority of the endpoint in caSecret of the PgArchive"
            }
            Self::ClockSkewed => {
                "set the clock of the node that the agent runs on, or of the store; it is tried again"
            }
            Self::DirectoryUnusable => {
                "check the volume of the PgArchive: whether it is mounted, has room, and may be written by this user"
            }
            Self::Unavailable => "it is tried again",
        }
    }
}

/// The error and what caused it, outermost first.
fn causes(error: &StoreError) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| {
        error.source()
    })
}

/// An input or output error of a directory, the absence of one file aside.
fn of_directory(error: &StoreError) -> bool {
    let io = causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let http = causes(error).any(|cause| cause.downcast_ref::<HttpError>().is_some());
    io.is_some() && !http
}

/// The text of element `name` in the server's answer, which the error carries as text alone.
fn element(error: &StoreError, name: &str) -> Option<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    causes(error).find_map(|cause| {
        let text = cause.to_string();
        let (_, rest) = text.split_once(&open)?;
        rest.split_once(&close).map(|(found, _)| found.to_owned())
    })
}

/// The error code: an element of S3's, Google's and Azure's answers, a member of a token endpoint's.
fn code(error: &StoreError) -> Option<String> {
    element(error, "Code").or_else(|| token_error(error).map(|(code, _)| code))
}

/// What the store says of it. The rest of Azure's says which request it was: a status would change with each try.
fn message(error: &StoreError) -> Option<String> {
    let said = element(error, "Message").or_else(|| token_error(error)?.1)?;
    Some(said.lines().next()?.trim_end().to_owned())
}

/// RFC 6749, 5.2.
fn token_error(error: &StoreError) -> Option<(String, Option<String>)> {
    #[derive(serde::Deserialize)]
    struct Refused {
        error: String,
        error_description: Option<String>,
    }
    causes(error).find_map(|cause| {
        let text = cause.to_string();
        let json = text.get(text.find('{')?..=text.rfind('}')?)?;
        let refused: Refused = serde_json::from_str(json).ok()?;
        Some((refused.error, refused.error_description))
    })
}

/// An error in short: what the server said, or the innermost cause. Whole answers are long and hold the key id.
pub(super) struct Cause<'a>(pub &'a StoreError);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (code(self.0), message(self.0)) {
            (Some(code), Some(message)) => write!(f, "the store says {code}: {message}"),
            (Some(code), None) => write!(f, "the store says {code}"),
            (None, _) => match causes(self.0).last() {
                Some(innermost) => write!(f, "{innermost}"),
                None => write!(f, "{}", self.0),
            },
        }
    }
}

/// Why an archive cannot be used, found by writing to it and reading back.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The store refused.
    #[error("failed to {verb} {key}: {}; {}", Cause(cause), fault.hint())]
    Store {
        /// What was tried.
        verb: &'static str,
        /// The probe's key.
        key: String,
        /// What it means.
        fault: Fault,
        /// What the store said.
        cause: StoreError,
    },
    /// What was read is not what was written.
    #[error("failed to read back {0}: the store returned other bytes than were written")]
    Different(String),
    /// What was written is not in the list.
    #[error("failed to list {0}: the store does not list what was written")]
    NotListed(String),
    /// Nobody could create it: the store says of a new name that it is taken.
    #[error("failed to write {0}: the store says that it exists, and nobody wrote it")]
    NotCreated(String),
    /// The system has no random bytes for the probe's name.
    #[error("failed to name the probe: {0}")]
    Random(String),
}

impl ProbeError {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Store { fault, .. } => fault.reason(),
            Self::Different(_) | Self::NotListed(_) | Self::NotCreated(_) => "ArchiveCorrupt",
            Self::Random(_) => "ArchiveUnavailable",
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
    #[error("failed to read {key}: {}; {}", Cause(cause), Fault::of(cause).hint())]
    Unavailable {
        /// The key.
        key: String,
        /// What the store said.
        cause: StoreError,
    },
    /// It is encrypted, and no key was given.
    #[error("failed to read {key}: it is encrypted, and there is no decryption key; {DECRYPTION}")]
    KeyMissing {
        /// The key.
        key: String,
    },
    /// It is encrypted, and none of the given keys fits.
    #[error(
        "failed to read {key}: it is encrypted, and none of the given decryption keys fits; {DECRYPTION}"
    )]
    KeyWrong {
        /// The key.
        key: String,
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
    /// Whether only somebody with a private key, or with another one, can read it.
    pub const fn wants_key(&self) -> bool {
        match self {
            Self::KeyMissing { .. } | Self::KeyWrong { .. } => true,
            Self::NotFound { .. } | Self::Unavailable { .. } | Self::Corrupt { .. } => false,
        }
    }

    /// For condition, event and metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotInArchive",
            Self::KeyMissing { .. } => KEY_MISSING,
            Self::KeyWrong { .. } => KEY_WRONG,
            Self::Unavailable { cause, .. } => Fault::of(cause).reason(),
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
    #[error("failed to archive {key}: {}; {}", Cause(cause), Fault::of(cause).hint())]
    Unavailable {
        /// The key.
        key: String,
        /// What the store said.
        cause: StoreError,
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
            Self::Unavailable { cause, .. } => Fault::of(cause).reason(),
            Self::Encode { .. } => "EncodeFailed",
            Self::Compare(error) => error.reason(),
        }
    }
}
