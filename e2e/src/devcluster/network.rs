//! The network namespace: nothing of the cluster is reachable from outside, or reaches it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    names::Names,
    process::{run, run_inside, wait},
};

/// The node's address; the API server listens there.
pub const NODE_ADDRESS: &str = "10.77.0.1";

/// Makes the namespace with loopback and the bridge `node0`.
pub fn up(names: &Names) -> Result<()> {
    if names.network_namespace().exists() {
        return Ok(());
    }
    add_namespace(names)?;
    let address = format!("{NODE_ADDRESS}/24");
    for args in [
        vec!["link", "set", "lo", "up"],
        vec!["link", "add", "node0", "type", "bridge"],
        vec!["addr", "add", &address, "dev", "node0"],
        vec!["link", "set", "node0", "up"],
        vec!["route", "add", "default", "dev", "node0"],
    ] {
        run_inside(names, "ip", &args)?;
    }
    run_inside(names, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
    Ok(())
}

/// The first namespace of a machine makes `/run/netns` a mount; clusters of two checkouts may both try to be the first.
fn add_namespace(names: &Names) -> Result<()> {
    fs::create_dir_all(Path::new("/run/netns")).context("failed to make /run/netns")?;
    let mut last = Ok(String::new());
    let added = wait(Duration::from_secs(5), || {
        last = run("ip", &["netns", "add", &names.id]);
        if last.is_err() {
            // A file without a namespace would stop the next attempt; the name is ours alone.
            let _ = run("ip", &["netns", "delete", &names.id]);
        }
        last.is_ok()
    });
    if added.is_err() {
        last.context("failed to add the network namespace")?;
    }
    Ok(())
}

/// Removes the namespace and all interfaces in it.
pub fn down(names: &Names) -> Result<()> {
    if names.network_namespace().exists() {
        run("ip", &["netns", "delete", &names.id])?;
    }
    Ok(())
}
