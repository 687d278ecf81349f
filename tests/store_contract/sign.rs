//! The signatures that a test needs itself: to make Azure's container, and to ask the S3 server behind the GCS proxy.

use sha2::{Digest, Sha256};

pub fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = [0; 64];
    match key.len() {
        ..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text);
    let outer = Sha256::new().chain_update(pad(0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = BASE64[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

/// Base64 of either alphabet, with or without its end.
pub fn unbase64(text: &str) -> Vec<u8> {
    let letters = text.bytes().filter_map(|letter| {
        let letter = match letter {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        };
        BASE64.iter().position(|other| *other == letter)
    });
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for value in letters {
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// Percent-encoded as signatures want it.
pub fn encoded(text: &str, keep: &[u8]) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let byte = |byte: u8| match unreserved(byte) || keep.contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

pub fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (other, _) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Azure's shared access signature for everything in an account, made with its key.
pub fn account_sas(account: &str, key: &[u8], until: &str) -> String {
    let signed = format!("{account}\nrwdlac\nb\nsco\n\n{until}\n\n\n2020-08-04\n");
    let signature = encoded(&base64(&hmac(key, &signed)), b"");
    let until = encoded(until, b"");
    format!("sv=2020-08-04&ss=b&srt=sco&sp=rwdlac&se={until}&sig={signature}")
}

/// Azure's shared access signature for the objects of one container, made with its account's key.
pub fn container_sas(account: &str, container: &str, key: &[u8], until: &str) -> String {
    let resource = format!("/blob/{account}/{container}");
    let [none, version] = ["", "2020-08-04"];
    let signed = [
        "rcwdl", none, until, &resource, none, none, none, version, "c", none, none, none, none,
        none, none,
    ];
    let signature = encoded(&base64(&hmac(key, &signed.join("\n"))), b"");
    let until = encoded(until, b"");
    format!("sv={version}&sr=c&sp=rcwdl&se={until}&sig={signature}")
}

/// What is signed in a request to S3.
pub struct Signed<'a> {
    pub key_id: &'a str,
    pub secret: &'a str,
    pub method: &'a str,
    /// Not encoded.
    pub path: &'a str,
    /// Not encoded.
    pub query: Vec<(String, String)>,
    /// With `host`, `x-amz-date` and `x-amz-content-sha256`; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Signed<'_> {
    /// The target and the header Authorization (AWS Signature Version 4).
    pub fn sign(mut self) -> (String, String) {
        self.query.sort();
        self.headers.sort();
        let header = |name: &str| {
            let mut headers = self.headers.iter();
            headers.find(|(other, _)| other == name).unwrap().1.clone()
        };
        let pair = |(name, value): &(String, String)| {
            format!("{}={}", encoded(name, b""), encoded(value, b""))
        };
        let query = self.query.iter().map(pair).collect::<Vec<_>>().join("&");
        let path = encoded(self.path, b"/");
        let lines: String = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let (names, payload) = (names.join(";"), header("x-amz-content-sha256"));
        let canonical = format!(
            "{}\n{path}\n{query}\n{lines}\n{names}\n{payload}",
            self.method
        );
        let date = header("x-amz-date");
        let scope = format!("{}/us-east-1/s3/aws4_request", &date[..8]);
        let hash = hex::encode(Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
        let first = hmac(format!("AWS4{}", self.secret).as_bytes(), &date[..8]);
        let key = ["us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(first, |key, part| hmac(&key, part));
        let signature = hex::encode(hmac(&key, &text));
        let credential = format!("{}/{scope}", self.key_id);
        let target = match query.is_empty() {
            true => path,
            false => format!("{path}?{query}"),
        };
        (
            target,
            format!(
                "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
            ),
        )
    }
}

#[test]
fn base64_goes_both_ways() {
    for text in ["", "a", "ab", "abc", "abcd"] {
        assert_eq!(unbase64(&base64(text.as_bytes())), text.as_bytes());
    }
    assert_eq!(base64(b"highwater"), "aGlnaHdhdGVy");
    assert_eq!(base64(b"ab"), "YWI=");
}
