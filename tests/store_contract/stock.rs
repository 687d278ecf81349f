//! An admin without Highwater: the stock programs read what the archive holds, and what they write is read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use highwater::archive::{Identities, Lineage};
use serde_json::{Value, json};

use crate::{
    encryption::{KeyPair, directory, open},
    server::component,
    suite::{MIB, content, fetch, identity, lineage_id, push, segment},
};

fn age() -> PathBuf {
    component("age", "bin/age")
}

/// What the shell makes of `script`, with `$age`, `$key` and `$object`.
fn shell(script: &str, key: &Path, object: &Path) -> Vec<u8> {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .env("age", age())
        .env("key", key)
        .env("object", object)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    output.stdout
}

fn object(place: &Path, number: u64, ending: &str) -> PathBuf {
    let name = segment(number);
    place.join(format!(
        "prod/shop-orders/0123456789/wal/00000001/{name}.{ending}"
    ))
}

async fn begun(place: &Path, compression: &Value, recipients: &[&str]) -> Lineage {
    let archive = open(&directory(place), compression, recipients);
    let lineage = archive.lineage(lineage_id("0123456789"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    lineage
}

fn reader(place: &Path, keys: &Path) -> Lineage {
    let archive = open(&directory(place), &Value::Null, &[]);
    let archive = archive.with_identities(Identities::read(keys).unwrap());
    archive.lineage(lineage_id("0123456789"))
}

#[tokio::test]
async fn age_zstd_and_lz4_read_every_ending() {
    let (key, second) = (KeyPair::new(), KeyPair::new());
    let algorithms = [
        (Value::Null, "zst", "zstd -dc"),
        (json!({"algorithm": "zstd", "level": 19}), "zst", "zstd -dc"),
        (json!({"algorithm": "lz4"}), "lz4", "lz4 -dc"),
        (json!({"algorithm": "none"}), "raw", "cat"),
    ];
    for (compression, ending, program) in algorithms {
        let place = tempfile::tempdir().unwrap();
        let plain = content(2, 0);
        let clear = begun(place.path(), &compression, &[]).await;
        push(&clear, 2, 0).await.unwrap();
        let script = format!("{program} < \"$object\"");
        let at = object(place.path(), 2, ending);
        assert_eq!(shell(&script, key.file.path(), &at), plain, "{ending}");
        if program != "cat" {
            shell(
                &format!("{} -t \"$object\"", &program[..4]),
                key.file.path(),
                &at,
            );
        }
        let recipients = [key.public.as_str(), second.public.as_str()];
        let encrypted = begun(place.path(), &compression, &recipients).await;
        push(&encrypted, 3, 0).await.unwrap();
        let script = format!("\"$age\" -d -i \"$key\" \"$object\" | {program}");
        let at = object(place.path(), 3, &format!("{ending}.age"));
        for key in [&key, &second] {
            assert_eq!(
                shell(&script, key.file.path(), &at),
                content(3, 0),
                "{ending}"
            );
        }
        // The plain content's hash stands in the header.
        let header = fs::read(&at).unwrap();
        let header = String::from_utf8_lossy(&header[..400]).into_owned();
        let said = format!(
            "\n-> highwater.dev/sha256 {}\n\n",
            highwater::archive::sha256(&content(3, 0))
        );
        assert!(header.contains(&said), "{header}");
    }
}

/// Makes an SSH key with the stock program; returns the public one.
fn ssh_key(file: &Path, options: &[&str], passphrase: &str) -> String {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", passphrase, "-C", "admin@example.com", "-f"])
        .arg(file)
        .args(options)
        .status()
        .unwrap();
    assert!(made.success());
    let public = fs::read_to_string(file.with_extension("pub")).unwrap();
    public.trim().to_owned()
}

#[tokio::test]
async fn ssh_keys_read_what_is_encrypted_to_them() {
    let place = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 3] = [
        &["-t", "ed25519"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "2048", "-m", "PEM"],
    ];
    let files: Vec<PathBuf> = (0..kinds.len())
        .map(|n| keys.path().join(n.to_string()))
        .collect();
    let made = files.iter().zip(kinds);
    let public: Vec<String> = made.map(|(file, kind)| ssh_key(file, kind, "")).collect();
    let native = KeyPair::new();
    let mut recipients: Vec<&str> = public.iter().map(String::as_str).collect();
    recipients.push(&native.public);
    push(&begun(place.path(), &Value::Null, &recipients).await, 2, 0)
        .await
        .unwrap();
    let at = object(place.path(), 2, "zst.age");
    for file in &files {
        let script = "\"$age\" -d -i \"$key\" \"$object\" | zstd -dc";
        assert_eq!(shell(script, file, &at), content(2, 0));
        let reader = reader(place.path(), file);
        assert_eq!(fetch(&reader, 2, MIB).await.unwrap(), content(2, 0));
    }
    // All of them in one file, as after rotations.
    let all = keys.path().join("all");
    let text: Vec<String> = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let own = fs::read_to_string(native.file.path()).unwrap();
    fs::write(
        &all,
        format!("{}\n# age\n{own}\n{}{}", text[0], text[1], text[2]),
    )
    .unwrap();
    assert_eq!(
        format!("{:?}", Identities::read(&all).unwrap()),
        "4 identities"
    );

    // Nobody is there to type a passphrase.
    let locked = keys.path().join("locked");
    ssh_key(&locked, &["-t", "ed25519"], "open sesame");
    let error = Identities::read(&locked).unwrap_err();
    assert_eq!(error.reason(), "InvalidDecryptionKey");
    assert!(error.to_string().contains("passphrase"), "{error}");
}

/// What an admin put there by hand is read. Nobody without the key can tell what it holds, and nobody guesses.
#[tokio::test]
async fn what_the_stock_programs_wrote_is_read() {
    let place = tempfile::tempdir().unwrap();
    let key = KeyPair::new();
    let lineage = begun(place.path(), &Value::Null, &[&key.public]).await;
    push(&lineage, 2, 0).await.unwrap();
    let (at, plain) = (
        object(place.path(), 3, "zst.age"),
        place.path().join("plain"),
    );
    fs::write(&plain, content(3, 0)).unwrap();
    let script = format!("zstd -c \"$object\" | \"$age\" -r {} ", key.public);
    fs::write(&at, shell(&script, key.file.path(), &plain)).unwrap();
    let reader = reader(place.path(), key.file.path());
    assert_eq!(fetch(&reader, 3, MIB).await.unwrap(), content(3, 0));
    assert!(lineage.contents().await.unwrap().segments[&segment(3)].encrypted);
    let refused = push(&lineage, 3, 0).await.unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict", "{refused}");
    assert!(refused.to_string().contains("not known"), "{refused}");
}
