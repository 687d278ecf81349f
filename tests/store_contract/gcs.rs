//! What the client of Google Cloud Storage speaks, put into what the S3 server behind understands. No package answers as
//! Google does; this proves our adapter and the client's requests, not Google.

use std::sync::Arc;

use highwater::{
    api::PgArchiveSpec,
    clock::{Clock, SystemClock},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, net::TcpStream, task::JoinHandle};

use crate::{
    http::{Message, answer, exchange, read_request},
    server::{KEY_ID, SECRET, Server},
    sign::{Signed, decoded, unbase64},
};

/// The service account that the proxy knows.
pub const ACCOUNT: &str = "agent@contract.example";

pub struct Gcs {
    pub port: u16,
    task: JoinHandle<()>,
    _server: Arc<Server>,
}

impl Gcs {
    pub async fn start() -> Self {
        let server = Arc::new(Server::start());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = server.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(one(stream, upstream));
            }
        });
        Self {
            port,
            task,
            _server: server,
        }
    }

    pub fn spec(&self, bucket: &str) -> PgArchiveSpec {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        serde_json::from_value(json!({
            "prefix": "prod/",
            "gcs": {"bucket": bucket, "endpoint": endpoint, "allowHttp": true},
        }))
        .unwrap()
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A service account's key as Google hands it out, with a private key of its own.
pub fn key(email: &str) -> String {
    let made = std::process::Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output()
        .unwrap();
    assert!(made.status.success());
    json!({
        "type": "service_account",
        "client_email": email,
        "private_key": String::from_utf8(made.stdout).unwrap(),
        "private_key_id": "1",
    })
    .to_string()
}

async fn one(mut stream: TcpStream, upstream: u16) {
    let Ok(request) = read_request(&mut stream).await else {
        return;
    };
    let bearer = request.header("authorization").unwrap_or_default();
    let refused = match issuer(bearer).as_deref() {
        Some(ACCOUNT) => None,
        Some(_) => Some((
            "403 Forbidden",
            "AccessDenied",
            "the account has no access to the object",
        )),
        None => Some((
            "401 Unauthorized",
            "AuthenticationRequired",
            "Authentication required.",
        )),
    };
    let answered = match refused {
        Some((status, code, text)) => Ok(Message::new(
            &format!("HTTP/1.1 {status}"),
            &format!(
                "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
            ),
        )),
        None => exchange(upstream, to_s3(request)).await.map(to_gcs),
    };
    if let Ok(answered) = answered {
        let _ = answer(stream, answered).await;
    }
}

/// Who says to have signed the token that a service account makes itself.
fn issuer(authorization: &str) -> Option<String> {
    let claims = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&unbase64(claims)).ok()?;
    Some(claims["iss"].as_str()?.to_owned())
}

fn to_s3(request: Message) -> Message {
    let (path, query) = request
        .target()
        .split_once('?')
        .unwrap_or((request.target(), ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(&value.replace('+', " ")))
        });
    let now = SystemClock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut headers = vec![
        ("host".to_owned(), "s3.example".to_owned()),
        ("x-amz-date".to_owned(), now),
        (
            "x-amz-content-sha256".to_owned(),
            "UNSIGNED-PAYLOAD".to_owned(),
        ),
    ];
    let mut beside = Vec::new();
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("x-goog-") {
            Some("if-generation-match") => {
                assert_eq!(value, "0", "nothing is ever replaced");
                beside.push(("If-None-Match".to_owned(), "*".to_owned()));
            }
            Some(meta) => headers.push((format!("x-amz-{meta}"), value.clone())),
            None if ["content-type", "range"].contains(&name.as_str()) => {
                beside.push((name, value.clone()));
            }
            None => {}
        }
    }
    let signed = Signed {
        key_id: KEY_ID,
        secret: SECRET,
        method: request.method(),
        path: &decoded(path),
        query: query.collect(),
        headers: headers.clone(),
    };
    let (target, authorization) = signed.sign();
    headers.extend(beside);
    headers.push(("authorization".to_owned(), authorization));
    Message {
        first: format!("{} {target} HTTP/1.1", request.method()),
        headers,
        body: request.body,
    }
}

fn to_gcs(mut answered: Message) -> Message {
    for (name, _) in &mut answered.headers {
        if let Some(rest) = name.to_ascii_lowercase().strip_prefix("x-amz-") {
            *name = format!("x-goog-{rest}");
        }
    }
    if let Some(tag) = answered.header("etag").map(str::to_owned) {
        // A number that changes with the content: all that the client asks of it.
        let digits = tag
            .bytes()
            .fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        answered.set("x-goog-generation", digits.to_string());
    }
    answered
}
