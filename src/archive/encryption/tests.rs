use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::postgres::Lsn;

pub fn key() -> age::x25519::Identity {
    age::x25519::Identity::generate()
}

fn text(key: &age::x25519::Identity) -> String {
    key.to_string().expose_secret().to_owned()
}

fn parse(text: &str) -> Result<Identities, String> {
    Identities::parse(&SecretString::from(text.to_owned()))
}

/// What reads with these keys.
pub fn identities<'a>(keys: impl IntoIterator<Item = &'a age::x25519::Identity>) -> Identities {
    let lines: Vec<String> = keys.into_iter().map(text).collect();
    parse(&lines.join("\n")).unwrap()
}

fn recipients(texts: &[String]) -> Result<Recipients, OpenError> {
    let encryption = json!({ "recipients": texts });
    Recipients::new(Some(&serde_json::from_value(encryption).unwrap()))
}

fn public(key: &age::x25519::Identity) -> String {
    key.to_public().to_string()
}

fn written(recipients: &Recipients, notes: &Notes, plain: &[u8]) -> Vec<u8> {
    let encryptor = recipients.encryptor(notes).unwrap();
    let mut stream = encryptor.wrap_output(Vec::new()).unwrap();
    stream.write_all(plain).unwrap();
    stream.finish().unwrap()
}

fn read(keys: &Identities, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut plain = Vec::new();
    keys.open(stored)?.read_to_end(&mut plain)?;
    Ok(plain)
}

#[test]
fn each_recipient_reads_and_nobody_else() {
    let [one, two, other] = [key(), key(), key()];
    let both = recipients(&[public(&one), public(&two)]).unwrap();
    let stored = written(&both, &Notes::default(), b"WAL");
    for reader in [
        identities([&one]),
        identities([&two]),
        identities([&other, &two]),
    ] {
        assert_eq!(read(&reader, &stored).unwrap(), b"WAL");
    }
    let wrong = read(&identities([&other]), &stored);
    assert!(matches!(wrong, Err(DecodeError::KeyWrong)), "{wrong:?}");
    let none = read(&Identities::default(), &stored);
    assert!(matches!(none, Err(DecodeError::KeyMissing)), "{none:?}");
}

#[test]
fn notes_are_read_without_a_key() {
    let key = key();
    let to = recipients(&[public(&key)]).unwrap();
    let at = "2026-11-20T12:00:00.123456Z".parse().unwrap();
    let lsn = Lsn::new(0x16_B374_D848);
    let records = |last_record, last_commit| {
        Some(Records {
            last_record,
            last_commit,
        })
    };
    for records in [
        None,
        records(None, None),
        records(Some(lsn), None),
        records(None, Some(at)),
        records(Some(lsn), Some(at)),
    ] {
        let notes = Notes {
            sha256: Some("0123".repeat(16)),
            records,
        };
        let stored = written(&to, &notes, b"WAL");
        assert_eq!(Notes::read(&stored).unwrap(), notes);
        assert_eq!(read(&identities([&key]), &stored).unwrap(), b"WAL");
        // What is said in the clear cannot be changed without the key that reads it.
        let header = String::from_utf8_lossy(&stored);
        let place = header.find("0123").unwrap();
        let mut changed = stored.clone();
        changed[place] = b'f';
        assert_ne!(Notes::read(&changed).unwrap(), notes);
        assert!(read(&identities([&key]), &changed).is_err());
    }
    // As the stock program writes it.
    let stored = written(&to, &Notes::default(), b"WAL");
    assert_eq!(Notes::read(&stored).unwrap(), Notes::default());
    assert!(Notes::read(b"no age file").is_err());
}

#[test]
fn what_is_no_recipient_is_named_by_its_position() {
    let good = public(&key());
    let secret = text(&key());
    let truncated = good[..good.len() - 1].to_owned();
    let many = [
        truncated,
        secret.clone(),
        "age1".into(),
        "ssh-ed25519 AAAA".into(),
        "ssh-dss AAAA".into(),
        String::new(),
    ];
    for bad in many {
        let error = recipients(&[good.clone(), bad.clone()]).unwrap_err();
        assert_eq!(error.reason(), "InvalidRecipient", "{bad}");
        let text = error.to_string();
        assert!(
            text.contains("recipients[1]") && !text.contains(&secret),
            "{text}"
        );
    }
    assert!(!recipients(&[good]).unwrap().is_empty());
    assert!(Recipients::new(None).unwrap().is_empty());
}

#[test]
fn a_file_may_hold_many_keys_and_says_where_it_is_wrong() {
    let [one, two] = [key(), key()];
    let (one, two) = (text(&one), text(&two));
    let good = format!("# created: today\r\n\r\n  {one}  \r\n{two}");
    assert_eq!(format!("{:?}", parse(&good).unwrap()), "2 identities");
    for (bad, line) in [
        (
            format!("{one}\n{}\n", &two[..two.len() - 1]),
            Some("line 2"),
        ),
        (format!("# one\n\n{one}x\n"), Some("line 3")),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n".to_owned(),
            Some("line 1"),
        ),
        (
            format!(
                "{one}\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
            ),
            Some("line 2"),
        ),
        ("# nothing\n".to_owned(), None),
        (String::new(), None),
    ] {
        let error = parse(&bad).unwrap_err();
        assert!(line.is_none_or(|line| error.contains(line)), "{error}");
        assert!(!error.to_uppercase().contains(&one[20..]), "{error}");
    }
    let error = Identities::read(Path::new("/nowhere/identity")).unwrap_err();
    assert_eq!(error.reason(), "DecryptionKeyMissing");
    assert!(
        error.to_string().contains("PgRestore.spec.decryption"),
        "{error}"
    );
}
