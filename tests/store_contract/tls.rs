//! Certificates.

use std::{fs, path::Path, process::Command};

/// A certificate for 127.0.0.1, signed by `ca.crt`, and its key.
pub fn certificates(folder: &Path) -> [String; 2] {
    let file = |name: &str| folder.join(name).display().to_string();
    fs::write(
        file("openssl.cnf"),
        "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
         [server]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n",
    )
    .unwrap();
    let sign = |kind: &str, more: &[&str]| {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN=test {kind}"),
            ])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-config", &file("openssl.cnf"), "-extensions", kind])
            .args(["-keyout", &file(&format!("{kind}.key"))])
            .args(["-out", &file(&format!("{kind}.crt"))])
            .args(more)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    };
    sign("ca", &[]);
    sign(
        "server",
        &["-CA", &file("ca.crt"), "-CAkey", &file("ca.key")],
    );
    [file("server.crt"), file("server.key")]
}
