//! The daemon and its client.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use crate::{
    proxy::Proxy,
    sample::{archive_all, as_cluster, copy, segments},
    site::{Site, compare, server, wait_for},
};

#[tokio::test]
async fn one_call_is_enough_for_all_that_waits() {
    let site = Site::new("daemon");
    let pgdata = copy(&site);
    let daemon = site.daemon();
    let mode = fs::metadata(site.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let all = segments(&pgdata);
    site.client(&pgdata, &all[0], false).expect(0);
    let asked = archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    assert!(asked < all.len(), "{asked}");
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
    for name in &all {
        site.client(&pgdata, name, false).expect(0);
    }
    daemon.terminate();
    daemon.wait().expect(0);
    assert!(!site.socket().exists());
}

#[test]
fn a_socket_has_one_daemon_and_what_a_killed_one_left_is_replaced() {
    let site = Site::new("sockets");
    let pgdata = copy(&site);
    let name = &segments(&pgdata)[0];
    let mut first = site.daemon();
    let second = site.daemon_process().wait();
    assert!(second.expect(1).contains("another daemon"));
    site.client(&pgdata, name, false).expect(0);
    first.kill();
    assert!(site.socket().exists());
    let said = site.client(&pgdata, name, false);
    assert!(said.expect(1).contains("highwater wal daemon"));
    // With a configuration too, it is done without the daemon.
    site.client(&pgdata, name, true).expect(0);
    let _daemon = site.daemon();
    site.client(&pgdata, name, false).expect(0);
}

#[test]
fn what_is_no_request_does_no_harm() {
    let site = Site::new("requests");
    let pgdata = copy(&site);
    let mut daemon = site.daemon();
    let long = [&b"highwater 1 push\n/"[..], &vec![b'x'; 1 << 20]].concat();
    for request in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"highwater 1 push\npg_wal/x",
        &long,
    ] {
        let mut stream = UnixStream::connect(site.socket()).unwrap();
        // It need not read to the end.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"2\n"),
            "{answer:?}"
        );
    }
    // One that never says what it wants keeps no other waiting.
    let silent = UnixStream::connect(site.socket()).unwrap();
    site.client(&pgdata, &segments(&pgdata)[0], false).expect(0);
    site.client(&pgdata, "nothing", false).expect(2);
    drop(silent);
    assert!(daemon.runs());
}

#[tokio::test]
async fn an_outage_is_said_and_ends_unaided() {
    let proxy = Proxy::start(server().port(), std::time::Duration::ZERO);
    let site = Site::at("outage", proxy.port());
    let pgdata = copy(&site);
    let all = segments(&pgdata);
    let mut daemon = site.daemon();
    site.client(&pgdata, &all[11], false).expect(0);
    proxy.cut();
    site.client(&pgdata, &all[0], false).expect(1);
    proxy.mend();
    archive_all(&pgdata, |name| {
        site.client(&pgdata, name, false).code() == 0
    });
    compare(&as_cluster(&pgdata), &site.lineage().await).await;
    assert!(daemon.runs());
    wait_for("descriptors", || {
        fs::read_dir(format!("/proc/{}/fd", daemon.id()))
            .unwrap()
            .count()
            < 40
    });
}
