//! The upstream conformance tests, csi-sanity, against the driver.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;

/// Fewer would mean that specs are skipped for capabilities the driver lost.
const AT_LEAST: usize = 60;

#[test]
fn csi_sanity_has_no_failure() {
    let program = csi_sanity();
    let driver = common::Driver::start(&[]);
    let output = Command::new(&program)
        .arg("--ginkgo.no-color")
        .arg("--csi.endpoint")
        .arg(driver.socket())
        .arg("--csi.mountdir")
        .arg(driver.path("mount"))
        .arg("--csi.stagingdir")
        .arg(driver.path("staging"))
        .output()
        .unwrap_or_else(|e| panic!("failed to run {}: {e}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = Summary::parse(&text).unwrap_or_else(|| {
        panic!(
            "no summary in {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    // Not println: what the suite ran is worth a line also where the test passes.
    writeln!(std::io::stderr(), "csi-sanity: {summary:?}").unwrap();
    assert_eq!(summary.failed, 0, "{text}\ndriver:\n{}", driver.log());
    assert!(
        summary.ran >= AT_LEAST,
        "only {} specs ran: {text}",
        summary.ran
    );
    assert!(output.status.success(), "{text}");
}

/// From CSI_SANITY, or where the dev cluster's build puts it.
fn csi_sanity() -> PathBuf {
    let path = match std::env::var_os("CSI_SANITY") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../devcluster/.cache/bin/csi-sanity"),
    };
    assert!(
        path.exists(),
        "{} is missing: run e2e/devcluster/build.sh, or set CSI_SANITY",
        path.display()
    );
    path
}

/// Ginkgo's closing lines.
#[derive(Debug, PartialEq)]
struct Summary {
    ran: usize,
    of: usize,
    failed: usize,
    skipped: usize,
}

impl Summary {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with("Ran "))?;
        let mut words = line.split(' ');
        let ran = words.nth(1)?.parse().ok()?;
        let of = words.nth(1)?.parse().ok()?;
        let counts = text.lines().find(|line| line.contains(" Passed | "))?;
        let count = |what: &str| {
            let part = counts
                .split(['|', '-'])
                .find(|part| part.trim().ends_with(what))?;
            part.trim().split(' ').next()?.parse().ok()
        };
        Some(Self {
            ran,
            of,
            failed: count("Failed")?,
            skipped: count("Skipped")?,
        })
    }
}

#[test]
fn reads_the_summary() {
    let text = "Ran 67 of 92 Specs in 1.186 seconds\n\
                FAIL! -- 66 Passed | 1 Failed | 1 Pending | 24 Skipped\n";
    let expected = Summary {
        ran: 67,
        of: 92,
        failed: 1,
        skipped: 24,
    };
    assert_eq!(Summary::parse(text), Some(expected));
    assert_eq!(Summary::parse("panic"), None);
}
