//! A session's token, and a pod's own identity: what a cloud's webhook puts into the pod's variables is what requests are
//! signed with.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use highwater::{api::PgArchiveSpec, archive::Archive, clock::SystemClock, postgres::TimelineId};
use serde_json::json;

use crate::{
    http::Message,
    program::fetch_config,
    proxy::{Fault, Proxy},
    server::{self, BUCKET, KEY_ID, SECRET, Server},
    servers, tls,
};

const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_token_goes_with_every_request() {
    let server = servers::moto();
    let proxy = Proxy::start(server.port).await;
    let spec = server::spec(proxy.port, BUCKET);
    for token in [None, Some("the-sessions-token")] {
        let mut keys = vec![
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ];
        keys.extend(token.map(|token| ("AWS_SESSION_TOKEN", token)));
        let store = server::open_with(&spec, &keys);
        let archive = Archive::new(store, &spec, "shop-orders").unwrap();
        archive.probe(&SystemClock).await.unwrap();
        let seen = proxy.seen();
        assert!(seen.len() > 5, "{seen:?}");
        for request in seen {
            assert_eq!(request.header("x-amz-security-token"), token);
        }
    }
}

const MISSING: &str = "/no/such/file";
const WRONG: &str = "another-secret";

/// Fetches a history file with no Secret, and these variables.
fn fetch(
    place: &Path,
    spec: &PgArchiveSpec,
    ca: Option<&str>,
    variables: &[(&str, &str)],
) -> Output {
    let progress = place.join("progress.json");
    // A token service of Python takes its time at first; what cannot work has none.
    let hopeless = |(_, value): &(&str, &str)| [MISSING, WRONG].contains(value);
    let deadline = if variables.iter().any(hopeless) {
        2
    } else {
        60
    };
    let config = fetch_config(spec, None, ca, progress.to_str().unwrap(), deadline);
    let file = place.join("fetch.json");
    fs::write(&file, config.to_string()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["wal", "fetch", "--config"])
        .arg(file)
        .arg("00000002.history")
        .arg(place.join("fetched"))
        .env_clear()
        .env("HOME", place)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Puts what is fetched.
async fn with_history(spec: &PgArchiveSpec) {
    let archive = Archive::new(server::open(spec, KEY_ID, SECRET), spec, "shop-orders").unwrap();
    let lineage = archive.lineage("0123456789".parse().unwrap());
    let timeline = TimelineId::new(2).unwrap();
    let pushed = lineage.push_history(timeline, HISTORY.into());
    pushed.await.unwrap();
}

fn fetched(place: &Path, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read_to_string(place.join("fetched")).unwrap(), HISTORY);
}

fn token(place: &Path) -> String {
    let file = place.join("token");
    fs::write(&file, "a-token-of-the-cluster").unwrap();
    file.display().to_string()
}

/// By a real security token service, behind TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_identity_for_s3() {
    let place = tempfile::tempdir().unwrap();
    let [certificate, key] = tls::certificates(place.path());
    let tokens = servers::tokens(&certificate, &key);
    let server = servers::moto();
    let proxy = Proxy::start(server.port).await;
    let spec = server::spec(proxy.port, BUCKET);
    with_history(&spec).await;
    proxy.seen();

    let (ca, file) = (place.path().join("ca.crt"), token(place.path()));
    let service = format!("https://127.0.0.1:{}", tokens.port);
    let mut variables = vec![
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/archive"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ENDPOINT_URL_STS", service.as_str()),
    ];
    let output = fetch(place.path(), &spec, ca.to_str(), &variables);
    fetched(place.path(), &output);
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    for request in seen {
        // What the service handed out: of a session, and not ours.
        assert!(
            request.header("x-amz-security-token").is_some(),
            "{request:?}"
        );
        assert!(!request.header("authorization").unwrap().contains(KEY_ID));
    }

    variables[1] = ("AWS_WEB_IDENTITY_TOKEN_FILE", MISSING);
    let output = fetch(place.path(), &spec, ca.to_str(), &variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(200), "no end of the log: {said}");
}

/// Keys of the environment, as people have them for other programs: a real server checks the signature.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_environment_for_s3() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start();
    let spec = server.spec(BUCKET);
    with_history(&spec).await;
    let keys = |secret| {
        let id = ("AWS_ACCESS_KEY_ID", KEY_ID);
        [id, ("AWS_SECRET_ACCESS_KEY", secret)]
    };
    let output = fetch(place.path(), &spec, None, &keys(SECRET));
    fetched(place.path(), &output);
    let output = fetch(place.path(), &spec, None, &keys(WRONG));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(200), "no end of the log: {said}");
    assert!(!said.contains(KEY_ID), "{said}");
}

/// What a cluster's agent on the node hands out to the pod, by the pod's token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_identity_for_s3() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start();
    let spec = server.spec(BUCKET);
    with_history(&spec).await;
    let node = Proxy::start(server::free_port()).await;
    let handed_out = json!({
        "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": "", "Expiration": "2126-11-20T12:00:00Z",
    });
    let answer = Message::new("HTTP/1.1 200 OK", &handed_out.to_string());
    node.once("GET", "/v1/credentials", Fault::Canned(answer));
    let (file, here) = (
        token(place.path()),
        format!("http://127.0.0.1:{}", node.port),
    );
    let service = format!("{here}/v1/credentials");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str()),
    ];
    let output = fetch(place.path(), &spec, None, &variables);
    fetched(place.path(), &output);
    assert!(node.all_met());
    let asked = node.seen();
    let by = asked.last().unwrap().header("authorization");
    assert_eq!(by, Some("a-token-of-the-cluster"));
}

fn object() -> Fault {
    let mut object = Message::new("HTTP/1.1 200 OK", HISTORY);
    object.set("ETag", "\"1\"");
    object.set("Last-Modified", "Fri, 20 Nov 2026 12:00:00 GMT");
    Fault::Canned(object)
}

fn handed_out() -> Fault {
    let token = json!({"access_token": "handed-out", "expires_in": 3600, "token_type": "Bearer"});
    Fault::Canned(Message::new("HTTP/1.1 200 OK", &token.to_string()))
}

async fn by_bearer(proxy: &Proxy) {
    assert!(proxy.all_met());
    let seen = proxy.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        last.header("authorization"),
        Some("Bearer handed-out"),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workload_identity_for_azure() {
    let place = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server::free_port()).await;
    let here = format!("http://127.0.0.1:{}", proxy.port);
    let spec = json!({"prefix": "prod/", "azure": {
        "container": BUCKET, "account": "backups", "endpoint": here, "allowHttp": true,
    }});
    proxy.once("POST", "/the-tenant/", handed_out());
    proxy.once("GET", ".history", object());
    let file = token(place.path());
    let variables = [
        ("AZURE_CLIENT_ID", "the-client"),
        ("AZURE_TENANT_ID", "the-tenant"),
        ("AZURE_FEDERATED_TOKEN_FILE", file.as_str()),
        ("AZURE_AUTHORITY_HOST", here.as_str()),
    ];
    let spec = serde_json::from_value(spec).unwrap();
    let output = fetch(place.path(), &spec, None, &variables);
    fetched(place.path(), &output);
    by_bearer(&proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_server_for_google() {
    let place = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server::free_port()).await;
    let here = format!("127.0.0.1:{}", proxy.port);
    let endpoint = format!("http://{here}");
    let spec = json!({"prefix": "prod/", "gcs": {"bucket": BUCKET, "endpoint": endpoint, "allowHttp": true}});
    proxy.once("GET", "/service-accounts/default/token", handed_out());
    // The client encodes all but letters and digits.
    proxy.once("GET", "%2Ehistory", object());
    let spec = serde_json::from_value(spec).unwrap();
    let output = fetch(place.path(), &spec, None, &[("GCE_METADATA_HOST", &here)]);
    fetched(place.path(), &output);
    by_bearer(&proxy).await;
}
