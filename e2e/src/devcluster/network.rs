//! The network namespace: nothing of the cluster is reachable from outside, or reaches it.

use anyhow::Result;

use super::{
    names::Names,
    process::{run, run_inside},
};

/// The node's address; the API server listens there.
pub const NODE_ADDRESS: &str = "10.77.0.1";

/// Makes the namespace with loopback and the bridge `node0`.
pub fn up(names: &Names) -> Result<()> {
    if names.network_namespace().exists() {
        return Ok(());
    }
    run("ip", &["netns", "add", &names.id])?;
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

/// Removes the namespace and all interfaces in it.
pub fn down(names: &Names) -> Result<()> {
    if names.network_namespace().exists() {
        run("ip", &["netns", "delete", &names.id])?;
    }
    Ok(())
}
