//! Where user and password come from.

use std::{fmt, fs, path::PathBuf};

use super::ConnectError;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// A user name or password: given, or the content of a file, read anew at each connect as Secrets are rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value itself.
    Value(Secret),
    /// The file that holds it. One line end at the end does not count.
    File(PathBuf),
    /// The same, and the value where there is no such file: the key may be missing in the Secret.
    FileOr(PathBuf, Secret),
}

impl Source {
    /// The value itself.
    pub fn value(text: impl Into<String>) -> Self {
        Self::Value(Secret::new(text))
    }

    fn read(&self, what: &'static str) -> Result<Secret, ConnectError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::FileOr(path, value) if !path.exists() => Ok(value.clone()),
            Self::File(path) | Self::FileOr(path, _) => match fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(without_line_end(&text))),
                Err(source) => Err(ConnectError::Credentials {
                    what,
                    path: path.clone(),
                    source,
                }),
            },
        }
    }
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Whom to log in as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The role.
    pub user: Source,
    /// Its password, unless the server asks for none.
    pub password: Option<Source>,
}

impl Credentials {
    pub(super) fn read(&self) -> Result<(Secret, Option<Secret>), ConnectError> {
        let password = self.password.as_ref().map(|source| source.read("password"));
        Ok((self.user.read("user name")?, password.transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_without_its_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let source = Source::File(path.clone());
        for (content, want) in [
            ("a", "a"),
            ("b\n", "b"),
            ("c\r\n", "c"),
            (" d \n\n", " d \n"),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(source.read("password").unwrap(), Secret::new(want));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(
            source.read("password").unwrap_err().reason(),
            "CredentialsMissing"
        );
    }

    #[test]
    fn a_secret_is_not_printed() {
        let credentials = Credentials {
            user: Source::value("hunter1"),
            password: Some(Source::value("hunter2")),
        };
        assert!(!format!("{credentials:?}").contains("hunter"));
    }
}
