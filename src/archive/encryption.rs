//! Encryption as `age` has it (age-encryption.org/v1): to public keys, so that who writes cannot read.
//!
//! A writer knows of an object what nobody without a private key can find out later. It says so in the header of the file
//! itself, in stanzas that `age` passes over as recipients of another kind: they come and go with the object, whatever the
//! store keeps beside it.

use std::{
    cell::RefCell,
    collections::HashSet,
    fmt, fs,
    io::{self, BufRead, Read},
    path::Path,
    sync::Arc,
};

use age::{DecryptError, EncryptError, secrecy::ExposeSecret as _, secrecy::SecretString};
use age_core::format::{FileKey, Stanza};

use super::{OpenError, Records, codec::DecodeError};
use crate::api::Encryption;

/// The stanza with the SHA-256 of the plain content.
const HASH: &str = "highwater.dev/sha256";
/// The stanza with what the records of a segment's beginning say.
const RECORDS: &str = "highwater.dev/records";
/// Stands for what is not there.
const NONE: &str = "-";

/// Who can read what is written: public keys.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Arc<[Recipient]>);

#[derive(Clone, Debug)]
enum Recipient {
    Native(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

impl Recipients {
    /// As the PgArchive says. None: nothing is encrypted.
    ///
    /// # Errors
    /// One of them is no public key that `age` knows.
    pub fn new(encryption: Option<&Encryption>) -> Result<Self, OpenError> {
        let texts = encryption.map(|encryption| encryption.recipients.as_slice());
        let parsed = texts.unwrap_or_default().iter().enumerate();
        let parsed = parsed.map(|(position, text)| {
            let failed = |cause| OpenError::InvalidRecipient { position, cause };
            recipient(text.trim()).map_err(failed)
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether nothing is encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What encrypts one object and says `notes` of it in the clear.
    pub(super) fn encryptor(&self, notes: &Notes) -> io::Result<age::Encryptor> {
        let keys = self.0.iter().map(Recipient::as_age);
        let all = keys.chain([notes as &dyn age::Recipient]);
        age::Encryptor::with_recipients(all).map_err(io::Error::other)
    }
}

impl Recipient {
    fn as_age(&self) -> &dyn age::Recipient {
        match self {
            Self::Native(key) => key,
            Self::Ssh(key) => key,
        }
    }
}

fn recipient(text: &str) -> Result<Recipient, String> {
    use age::ssh::ParseRecipientKeyError as Error;
    if !text.starts_with("ssh-") {
        let parsed = text.parse().map(Recipient::Native);
        return parsed.map_err(|cause: &str| cause.to_owned());
    }
    text.parse()
        .map(Recipient::Ssh)
        .map_err(|cause| match cause {
            Error::RsaModulusTooLarge => "the RSA key is longer than 4096 bits".to_owned(),
            Error::RsaModulusTooSmall => "the RSA key is shorter than 2048 bits".to_owned(),
            Error::Unsupported(kind) => format!("SSH keys of type {kind} cannot be encrypted to"),
            _ => "it is no SSH public key".to_owned(),
        })
}

/// What is said of an encrypted object in the clear. The key that reads the object also proves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// SHA-256 of the plain content.
    pub sha256: Option<String>,
    /// Of the beginning of a segment: what the records up to this part's end say.
    pub records: Option<Records>,
}

impl age::Recipient for Notes {
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let stanza = |tag: &str, args| Stanza {
            tag: tag.to_owned(),
            args,
            body: Vec::new(),
        };
        let hash = self.sha256.iter();
        let hash = hash.map(|hash| stanza(HASH, vec![hash.clone()]));
        let records = self.records.map(|records| {
            let Records {
                last_record,
                last_commit,
            } = records;
            stanza(RECORDS, vec![or_none(last_record), or_none(last_commit)])
        });
        Ok((hash.chain(records).collect(), HashSet::new()))
    }
}

fn or_none<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

impl Notes {
    /// From the header of an object; needs no key.
    ///
    /// # Errors
    /// It is no age file.
    pub(super) fn read(stored: &[u8]) -> Result<Self, DecodeError> {
        let reader = NoteReader::default();
        let decryptor = age::Decryptor::new_buffered(stored).map_err(broken)?;
        // It reads no further than to the header, which it cannot open.
        let _ = decryptor.decrypt([&reader as &dyn age::Identity].into_iter());
        Ok(reader.0.into_inner())
    }

    fn add(&mut self, Stanza { tag, args, body: _ }: &Stanza) {
        match (tag.as_str(), args.as_slice()) {
            (HASH, [hash]) => self.sha256 = Some(hash.clone()),
            (RECORDS, [last_record, last_commit]) => {
                let records = parse_or_none(last_record).zip(parse_or_none(last_commit));
                self.records = records.map(|(last_record, last_commit)| Records {
                    last_record,
                    last_commit,
                });
            }
            _ => {}
        }
    }
}

fn parse_or_none<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
    match text {
        NONE => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// Opens nothing, and remembers what it saw.
#[derive(Default)]
struct NoteReader(RefCell<Notes>);

impl age::Identity for NoteReader {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.0.borrow_mut().add(stanza);
        None
    }
}

/// Private keys, for recovery.
#[derive(Clone, Default)]
pub struct Identities(Arc<[Box<Key>]>);

type Key = dyn age::Identity + Send + Sync;

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

impl Identities {
    /// Reads a file as `age -i` takes it: identities one a line, lines that begin with `#`, and SSH private keys without a
    /// passphrase, any number of each.
    ///
    /// # Errors
    /// The file cannot be read, holds anything else, or no key.
    pub fn read(path: &Path) -> Result<Self, OpenError> {
        let failed = |what| OpenError::InvalidIdentity {
            path: path.display().to_string(),
            what,
        };
        let text = fs::read_to_string(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => OpenError::IdentityMissing(path.display().to_string()),
            _ => failed(cause.to_string()),
        })?;
        Self::parse(&SecretString::from(text)).map_err(failed)
    }

    /// The same of the file's text. Errors never hold any of it.
    fn parse(text: &SecretString) -> Result<Self, String> {
        let mut keys: Vec<Box<Key>> = Vec::new();
        let mut rest = text.expose_secret();
        let mut number = 0;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            number += 1;
            let trimmed = line.trim();
            if trimmed.starts_with("-----BEGIN ") {
                let (key, after) =
                    ssh_key(rest).map_err(|what| format!("line {number}: {what}"))?;
                let read = rest.strip_suffix(after).unwrap_or_default();
                number += read.lines().count().saturating_sub(1);
                keys.push(Box::new(key));
                rest = after;
                continue;
            }
            rest = after;
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let key = trimmed.parse::<age::x25519::Identity>();
            keys.push(Box::new(key.map_err(|_| {
                format!("line {number} is neither an age identity nor the beginning of an SSH key")
            })?));
        }
        match keys.is_empty() {
            true => Err("there is no key in it".to_owned()),
            false => Ok(Self(keys.into())),
        }
    }

    /// Reads an encrypted object's content.
    ///
    /// # Errors
    /// No key was given, none of them fits, or the object is broken.
    pub(super) fn open<'a>(&self, stored: &'a [u8]) -> Result<impl Read + use<'a>, DecodeError> {
        if self.0.is_empty() {
            return Err(DecodeError::KeyMissing);
        }
        let decryptor = age::Decryptor::new_buffered(stored).map_err(broken)?;
        let keys = self.0.iter().map(|key| &**key as &dyn age::Identity);
        decryptor.decrypt(keys).map_err(broken)
    }
}

/// The SSH private key that `text` begins with, and what follows it.
fn ssh_key(text: &str) -> Result<(age::ssh::Identity, &str), &'static str> {
    let end = text.find("-----END ").ok_or("the SSH key has no end")?;
    let length = text.get(end..).and_then(|tail| tail.find('\n'));
    let (key, after) = text.split_at(length.map_or(text.len(), |length| end + length + 1));
    let parsed = age::ssh::Identity::from_buffer(io::Cursor::new(key).by_ref(), None);
    match parsed.map_err(|_| "it is no SSH private key")? {
        key @ age::ssh::Identity::Unencrypted(_) => Ok((key, after)),
        age::ssh::Identity::Encrypted(_) => {
            Err("the SSH key has a passphrase: nobody is there to type it; give it without one")
        }
        age::ssh::Identity::Unsupported(_) => Err("SSH keys of this type are not supported"),
    }
}

fn broken(error: DecryptError) -> DecodeError {
    DecodeError::Broken(match error {
        DecryptError::NoMatchingKeys => return DecodeError::KeyWrong,
        DecryptError::Io(error) => error,
        DecryptError::InvalidMac => io::Error::other("the header was changed"),
        DecryptError::UnknownFormat => io::Error::other("it is of an unknown version of age"),
        _ => io::Error::other("it is no age file, or a broken one"),
    })
}

/// What is left after the content must be nothing: also makes sure that the file's end was checked.
pub(super) fn at_end(mut rest: impl BufRead) -> io::Result<()> {
    match rest.fill_buf()?.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("bytes follow the end of the content")),
    }
}

#[cfg(test)]
pub(super) mod tests;
