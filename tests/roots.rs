//! The static binary needs nothing beside it: it starts in an empty root file system, and brings its root certificates.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, MountedSecrets, store},
    postgres::TimelineId,
};
use object_store::ObjectStoreExt as _;

#[path = "store_contract/program.rs"]
mod program;
#[allow(dead_code, reason = "shared with another test")]
#[path = "store_contract/server.rs"]
mod server;
#[path = "store_contract/tls.rs"]
mod tls;

use server::{BUCKET, KEY_ID, SECRET, Server};

/// A root file system with the program and nothing else.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("highwater");
    fs::copy(env!("CARGO_BIN_EXE_highwater"), &program).unwrap();
    root
}

/// Runs the program in there, with no variables either.
fn run(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("chroot");
    command.arg(root).arg("/highwater").args(args);
    let chroot = command.env_clear().env("PATH", "/usr/sbin:/usr/bin");
    chroot.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_program_starts_in_an_empty_root() {
    let root = root();
    let version = run(root.path(), &["--version"]);
    assert!(version.status.success(), "{}", text(&version.stderr));
    assert_eq!(
        text(&version.stdout).trim(),
        concat!("highwater ", env!("CARGO_PKG_VERSION"))
    );
    let crds = run(root.path(), &["crds"]);
    assert!(crds.status.success(), "{}", text(&crds.stderr));
    assert_eq!(
        text(&crds.stdout)
            .matches("kind: CustomResourceDefinition")
            .count(),
        5
    );
    let files: Vec<_> = fs::read_dir(root.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

/// What a recovery pod runs for each file of WAL, on an archive behind TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_brings_its_root_certificates() {
    let root = root();
    let [certificate, key] = tls::certificates(root.path());
    let options = |_| {
        ["--cert", &certificate, "--key", &key]
            .map(str::to_owned)
            .into()
    };
    let server = Server::start_with("https", options);
    let spec = server.spec(BUCKET);
    let credentials = root.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("AWS_ACCESS_KEY_ID"), KEY_ID).unwrap();
    fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), SECRET).unwrap();
    let mounted = MountedSecrets {
        credentials: Some(credentials),
        ca_file: Some(root.path().join("ca.crt")),
        directory: "/nowhere".into(),
    };
    let archive =
        Archive::new(store::open(&spec, &mounted).unwrap(), &spec, "shop-orders").unwrap();
    let lineage = archive.lineage("0123456789".parse().unwrap());
    let timeline = TimelineId::new(2).unwrap();
    lineage
        .push_history(timeline, HISTORY.into())
        .await
        .unwrap();

    keeps_to_a_limit(&spec, &mounted).await;

    // Its roots are there, and none of them has signed this certificate.
    let unknown = fetch(root.path(), &spec, None);
    let error = text(&unknown.stderr);
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(!error.contains(SECRET), "{error}");
    assert_eq!(
        unknown.status.code(),
        Some(200),
        "no end of the log: {error}"
    );

    let trusted = fetch(root.path(), &spec, Some("/ca.crt"));
    assert!(trusted.status.success(), "{}", text(&trusted.stderr));
    let fetched = fs::read_to_string(root.path().join("fetched")).unwrap();
    assert_eq!(fetched, HISTORY);
}

/// Uploads that keep to a limit have a client of their own, which trusts the same certificates and no others.
async fn keeps_to_a_limit(spec: &PgArchiveSpec, mounted: &MountedSecrets) {
    let mut limited = spec.clone();
    let limits = serde_json::json!({"uploadBytesPerSecond": "4Mi"});
    limited.limits = Some(serde_json::from_value(limits).unwrap());
    let key = object_store::path::Path::from("limited");
    let put = async |mounted: &MountedSecrets| {
        let store = store::open(&limited, mounted).unwrap();
        store.put(&key, vec![1; 100_000].into()).await
    };
    put(mounted).await.unwrap();
    let strangers = MountedSecrets {
        ca_file: None,
        ..mounted.clone()
    };
    let refused = format!("{:?}", put(&strangers).await.unwrap_err());
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}

const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n";

fn fetch(root: &Path, spec: &PgArchiveSpec, ca: Option<&str>) -> Output {
    let config = program::fetch_config(spec, Some("/credentials"), ca, "/progress.json", 2);
    fs::write(root.join("fetch.json"), config.to_string()).unwrap();
    run(
        root,
        &[
            "wal",
            "fetch",
            "--config",
            "/fetch.json",
            "00000002.history",
            "/fetched",
        ],
    )
}
