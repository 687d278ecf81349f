//! WAL is encrypted, the keys change, and only who has those of all generations restores.

use std::{fs, io::Read as _};

use age::{secrecy::ExposeSecret as _, x25519::Identity};
use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Ledger, Writer, bucket, condition, said, story, until,
};
use serde_json::json;

use super::{archives, setup::scenario};

/// A Zstandard frame begins with this (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[tokio::test(flavor = "multi_thread")]
async fn only_the_keys_of_all_generations_restore() {
    scenario("encrypted", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let [old, new] = [Identity::generate(), Identity::generate()];
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    encrypt_to(&orders, &old)?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    encrypt_to(&orders, &new)?;
    follows(&orders, &writer, &new).await?;
    let owed = writer.ledger.acknowledged();
    archives::archived(&orders, &orders.connect().await?).await?;

    refused(&orders, "no-key", None, "DecryptionKeyMissing").await?;
    let [old, new] = [old, new].map(|key| key.to_string().expose_secret().to_owned());
    for (name, identities) in [("old", old.clone()), ("both", format!("{old}\n{new}\n"))] {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"identity": identities},
        });
        kubectl.apply(&secret.to_string())?;
    }
    refused(&orders, "old-key", Some("old"), "DecryptionKeyWrong").await?;

    restore(&orders, "both-keys", Some("both"))?;
    story::completed(kubectl, namespace, "both-keys").await?;
    let clone = Database::existing(kubectl, namespace, "both-keys");
    let sent = writer.ledger.sent();
    let found = Ledger::check(&clone.connect().await?, owed, sent).await?;
    println!("restored with both keys: rows 1 to {found}, {owed} are owed");
    writer.stop().await.map(drop)
}

fn encrypt_to(orders: &Database, key: &Identity) -> Result<()> {
    let recipients = [key.to_public().to_string()];
    let archive = json!({"spec": {"encryption": {"recipients": recipients}}});
    orders
        .kubectl
        .patch(&orders.namespace, ("pga", "main"), &archive)
}

/// Writes until an object is there that `key` opens; all are encrypted.
async fn follows(orders: &Database, writer: &Writer, key: &Identity) -> Result<()> {
    let folder = bucket::lineage(orders)?;
    story::commits(writer, 200).await?;
    let opened = until("WAL is encrypted to the new key", story::LIMIT, || {
        let opened = opened(orders, &folder, key)?;
        Ok((opened > 0).then_some(opened))
    })
    .await?;
    println!("{opened} objects are encrypted to the new key");
    Ok(())
}

/// How many of the segments and tails `key` opens.
fn opened(orders: &Database, folder: &str, key: &Identity) -> Result<usize> {
    let bucket = bucket::folder(&orders.kubectl)?.join(folder);
    let objects = bucket::objects(&orders.kubectl, folder)?;
    let wal = objects
        .keys()
        .filter(|name| name.starts_with("wal/") || name.starts_with("tail/"));
    let mut opened = 0;
    for name in wal {
        ensure!(name.ends_with(".zst.age"), "{name} is not encrypted");
        // Tails come and go.
        let Ok(object) = fs::read(bucket.join(name)) else {
            continue;
        };
        let key: &dyn age::Identity = key;
        let object = age::Decryptor::new(&object[..])?;
        let Ok(mut plain) = object.decrypt(std::iter::once(key)) else {
            continue;
        };
        let mut begins = [0; ZSTD.len()];
        plain.read_exact(&mut begins)?;
        ensure!(begins == ZSTD, "{name} begins with {begins:?}");
        opened += 1;
    }
    Ok(opened)
}

/// A restore to latest into a StatefulSet of its name.
fn restore(orders: &Database, name: &str, secret: Option<&str>) -> Result<()> {
    let mut restore = json!({
        "apiVersion": "highwater.dev/v1alpha1",
        "kind": "PgRestore",
        "metadata": {"name": name, "namespace": orders.namespace},
        "spec": {
            "source": {"protection": "orders"},
            "target": {"latest": {}},
            "into": {"statefulSet": name},
        },
    });
    if let Some(secret) = secret {
        restore["spec"]["decryption"] = json!({"secretName": secret, "key": "identity"});
    }
    orders.kubectl.apply(&restore.to_string())?;
    Ok(())
}

/// The restore fails for this reason, and there is no database that could be taken for a restored one.
async fn refused(orders: &Database, name: &str, secret: Option<&str>, reason: &str) -> Result<()> {
    restore(orders, name, secret)?;
    let (about, failed) = (("pgr", name), ("Completed", "False"));
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let object = condition(kubectl, namespace, about, failed, story::LIMIT).await?;
    let completed = said(&object, "Completed").context("it says nothing")?;
    println!("{name}: {}", completed["message"]);
    ensure!(completed["reason"] == reason, "{name}: {completed}");
    let made = kubectl.get(namespace, "statefulset", name)?;
    ensure!(made.is_none(), "{name} is there");
    Ok(())
}
