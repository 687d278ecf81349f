//! What goes wrong on the way to PostgreSQL, and in a query.

use std::{error::Error as _, io, path::PathBuf};

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorResponseBody;
use tokio_postgres::error::SqlState;

use super::guard::RefusedMethod;

/// No session. Never holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A file with the user name or password cannot be read.
    #[error("failed to read the {what} from {path}: {source}", path = .path.display())]
    Credentials {
        /// `user name` or `password`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers, or TLS fails.
    #[error("failed to connect to PostgreSQL at {address}: {cause}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        cause: String,
    },
    /// PostgreSQL answers that it takes no connection now.
    #[error(
        "failed to connect to PostgreSQL at {address}: {cause}. It is starting, stopping or recovering"
    )]
    NotAccepting {
        /// Host and port.
        address: String,
        /// What PostgreSQL says.
        cause: String,
    },
    /// All connections are taken.
    #[error(
        "failed to connect to PostgreSQL at {address}: {cause}. Raise max_connections, or close sessions"
    )]
    TooManyConnections {
        /// Host and port.
        address: String,
        /// What PostgreSQL says.
        cause: String,
    },
    /// The server wants a password, and none is known.
    #[error(
        "failed to log in to PostgreSQL at {address} as {user}: it asks for a password and none is known. Name a Secret in the annotation highwater.dev/credentials"
    )]
    PasswordMissing {
        /// Host and port.
        address: String,
        /// The role.
        user: String,
    },
    /// Wrong password, or no such role (PostgreSQL does not say which).
    #[error(
        "failed to log in to PostgreSQL at {address} as {user}: the password is wrong, or the role does not exist. Correct the Secret; it is read again at the next try"
    )]
    PasswordRejected {
        /// Host and port.
        address: String,
        /// The role.
        user: String,
    },
    /// The server asks for the password by a method that would tell it.
    #[error(
        "failed to log in to PostgreSQL at {address} as {user}: {method}. Set password_encryption = 'scram-sha-256', set the role's password again and use scram-sha-256 in pg_hba.conf"
    )]
    InsecureAuthentication {
        /// Host and port.
        address: String,
        /// The role.
        user: String,
        /// What it asks for.
        method: String,
    },
    /// `pg_hba.conf`, or a missing right, keeps the role out.
    #[error(
        "failed to log in to PostgreSQL at {address} as {user}: {cause}. Allow it in pg_hba.conf, with LOGIN on the role and CONNECT on the database"
    )]
    AccessRefused {
        /// Host and port.
        address: String,
        /// The role.
        user: String,
        /// What PostgreSQL says.
        cause: String,
    },
    /// The database does not exist.
    #[error(
        "failed to connect to PostgreSQL at {address}: database {database:?} does not exist. Name another in spec.connection.database"
    )]
    NoSuchDatabase {
        /// Host and port.
        address: String,
        /// The database.
        database: String,
    },
    /// Older or newer than what is known.
    #[error("PostgreSQL {major} at {address} is not supported: want 14 to 18")]
    UnsupportedVersion {
        /// Host and port.
        address: String,
        /// Its major version.
        major: u32,
    },
}

impl ConnectError {
    /// For conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Credentials { .. } => "CredentialsMissing",
            Self::Unreachable { .. } => "DatabaseUnreachable",
            Self::NotAccepting { .. } => "DatabaseNotAccepting",
            Self::TooManyConnections { .. } => "TooManyConnections",
            Self::PasswordMissing { .. } => "PasswordMissing",
            Self::PasswordRejected { .. } => "PasswordRejected",
            Self::InsecureAuthentication { .. } => "InsecureAuthentication",
            Self::AccessRefused { .. } => "AccessRefused",
            Self::NoSuchDatabase { .. } => "NoSuchDatabase",
            Self::UnsupportedVersion { .. } => "UnsupportedVersion",
        }
    }
}

/// Whom the client tried to reach.
pub(super) struct Target<'a> {
    pub(super) address: String,
    pub(super) user: String,
    pub(super) database: &'a str,
}

impl Target<'_> {
    pub(super) fn unreachable(&self, cause: impl ToString) -> ConnectError {
        let (address, cause) = (self.address.clone(), cause.to_string());
        ConnectError::Unreachable { address, cause }
    }

    /// What the client's error means.
    pub(super) fn explain(
        &self,
        error: &tokio_postgres::Error,
        has_password: bool,
    ) -> ConnectError {
        let (address, user) = (self.address.clone(), self.user.clone());
        if let Some(refused) = refused_method(error) {
            let method = refused.to_string();
            return ConnectError::InsecureAuthentication {
                address,
                user,
                method,
            };
        }
        let cause = cause(error);
        let Some(state) = error.code() else {
            // What the client itself says when it is asked for one.
            if !has_password && cause.ends_with("password missing") {
                return ConnectError::PasswordMissing { address, user };
            }
            return self.unreachable(cause);
        };
        match *state {
            SqlState::INVALID_PASSWORD => ConnectError::PasswordRejected { address, user },
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION | SqlState::INSUFFICIENT_PRIVILEGE => {
                ConnectError::AccessRefused {
                    address,
                    user,
                    cause,
                }
            }
            SqlState::INVALID_CATALOG_NAME => ConnectError::NoSuchDatabase {
                address,
                database: self.database.to_owned(),
            },
            SqlState::TOO_MANY_CONNECTIONS => ConnectError::TooManyConnections { address, cause },
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => {
                ConnectError::NotAccepting { address, cause }
            }
            _ => self.unreachable(cause),
        }
    }
}

fn refused_method(error: &tokio_postgres::Error) -> Option<RefusedMethod> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    io.get_ref()?.downcast_ref::<RefusedMethod>().copied()
}

/// What PostgreSQL says, or what happened to the connection.
fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return answer.message().to_owned();
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What an answer of the server means for its session.
fn reason(state: &SqlState) -> &'static str {
    match *state {
        SqlState::INSUFFICIENT_PRIVILEGE => "InsufficientPrivileges",
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_SESSION_TIMEOUT => {
            "SessionLost"
        }
        _ => "QueryFailed",
    }
}

/// A query failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}: {cause}")]
pub struct QueryError {
    action: String,
    cause: String,
    reason: &'static str,
    state: Option<SqlState>,
}

impl QueryError {
    pub(in crate::postgres) fn new(
        action: impl Into<String>,
        error: &tokio_postgres::Error,
    ) -> Self {
        let reason = match error.code() {
            Some(state) if !error.is_closed() => reason(state),
            _ => "SessionLost",
        };
        Self {
            action: action.into(),
            cause: cause(error),
            reason,
            state: error.code().cloned(),
        }
    }

    /// What the server answers in a session that the client library does not drive.
    pub(in crate::postgres) fn answered(
        action: impl Into<String>,
        answer: &ErrorResponseBody,
    ) -> Self {
        let (mut state, mut cause) = (None, String::new());
        let mut fields = answer.fields();
        // What cannot be read ends the list.
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes());
            match field.type_() {
                b'C' => state = Some(SqlState::from_code(&value)),
                b'M' => cause = value.into_owned(),
                _ => {}
            }
        }
        Self {
            action: action.into(),
            cause,
            reason: state.as_ref().map_or("QueryFailed", reason),
            state,
        }
    }

    /// The connection broke off.
    pub(in crate::postgres) fn lost(action: impl Into<String>, error: &io::Error) -> Self {
        Self {
            action: action.into(),
            cause: error.to_string(),
            reason: "SessionLost",
            state: None,
        }
    }

    /// The answer to a query makes no sense.
    pub(in crate::postgres) fn unexpected(
        action: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            action: action.into(),
            cause: cause.into(),
            reason: "QueryFailed",
            state: None,
        }
    }

    /// The same, where it is a limit of the server's configuration that is reached: by this reason, with what to do.
    pub(in crate::postgres) fn at_limit(mut self, reason: &'static str, remedy: &str) -> Self {
        if self.state == Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED) {
            self.reason = reason;
            self.cause = format!("{}. {remedy}", self.cause);
        }
        self
    }

    /// Not allowed to.
    pub(in crate::postgres) fn forbidden(
        action: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            action: action.into(),
            cause: cause.into(),
            reason: "InsufficientPrivileges",
            state: None,
        }
    }

    /// `SessionLost`, `InsufficientPrivileges`, `TooManyReplicationSlots` or `QueryFailed`.
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    /// Whether a file of the server's is not there, as WAL that it has removed.
    pub fn is_file_missing(&self) -> bool {
        self.state == Some(SqlState::UNDEFINED_FILE)
    }

    /// Whether the session is gone, and with it backup mode.
    pub fn is_session_lost(&self) -> bool {
        self.reason == "SessionLost"
    }
}
