//! The other servers: moto and rclone for S3, azurite for Azure.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use highwater::api::PgArchiveSpec;
use serde_json::json;

use crate::{
    server::{BUCKET, KEY_ID, Process, SECRET, component},
    sign::{account_sas, base64, container_sas},
};

/// Another S3 server that heeds If-None-Match. It looks at no credentials.
pub fn moto() -> Process {
    let process = run_moto(&[]);
    // What tells it that this is about S3.
    let credential = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request";
    let header = format!("Authorization: {credential}\r\n");
    put(process.port, &format!("/{BUCKET}"), &header);
    process
}

/// Its security token service, behind TLS.
pub fn tokens(certificate: &str, key: &str) -> Process {
    run_moto(&[certificate, key])
}

fn run_moto(tls: &[&str]) -> Process {
    Process::start(|port, directory| {
        let mut command = Command::new(component("moto", "bin/python"));
        command
            .current_dir(directory)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/stores/moto_server.py"
            ))
            .arg(port.to_string())
            .args(tls);
        command
    })
}

/// An S3 server that does not know If-None-Match, and overwrites.
pub fn rclone() -> Process {
    Process::start(|port, directory| {
        let data = directory.join("data");
        std::fs::create_dir_all(data.join(BUCKET)).unwrap();
        let mut command = Command::new(component("rclone", "bin/rclone"));
        let address = format!("127.0.0.1:{port}");
        let key = format!("{KEY_ID},{SECRET}");
        command
            .env("HOME", directory)
            .env("RCLONE_CONFIG", directory.join("rclone.conf"))
            .args(["serve", "s3", "--addr", &address, "--auth-key", &key])
            .arg(data);
        command
    })
}

pub const ACCOUNT: &str = "contractaccount";
/// In base64 it has letters that a shared access signature must not carry as they are.
const ACCOUNT_KEY: &[u8] = b"the account key of the contract: \xfb\xff\xfe";

const UNTIL: &str = "2126-11-20T00:00:00Z";

pub struct Azurite {
    process: Process,
}

impl Azurite {
    pub fn start() -> Self {
        let process = Process::start(|port, directory| {
            let program = "node_modules/azurite/dist/src/blob/main.js";
            let mut command = Command::new("node");
            command
                .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{}", Self::key()))
                .arg(component("azurite", program))
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .arg("--location")
                .arg(directory)
                .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"]);
            command
        });
        let azurite = Self { process };
        let sas = account_sas(ACCOUNT, ACCOUNT_KEY, UNTIL);
        let target = format!("/{ACCOUNT}/{BUCKET}?restype=container&{sas}");
        put(
            azurite.process.port,
            &target,
            "x-ms-version: 2020-08-04\r\n",
        );
        azurite
    }

    pub fn key() -> String {
        base64(ACCOUNT_KEY)
    }

    /// A signature for the container.
    pub fn sas() -> String {
        container_sas(ACCOUNT, BUCKET, ACCOUNT_KEY, UNTIL)
    }

    pub fn spec(&self, account: &str, container: &str) -> PgArchiveSpec {
        let endpoint = format!("http://127.0.0.1:{}/{account}", self.process.port);
        serde_json::from_value(json!({
            "prefix": "prod/",
            "azure": {"container": container, "endpoint": endpoint, "allowHttp": true},
        }))
        .unwrap()
    }
}

fn put(port: u16, target: &str, headers: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "PUT {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}
