//! A way to a pod that leads through the API server, where pods cannot be reached by address.

use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::Kubectl;

/// Lasts until it is dropped.
pub struct Forward {
    /// Where to connect, as `HOST:PORT`.
    pub address: String,
    _kubectl: Child,
}

impl Forward {
    /// To a port of a pod.
    ///
    /// # Errors
    /// kubectl cannot do it.
    pub async fn start(kubectl: &Kubectl, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        let (pod, port) = (format!("pod/{pod}"), format!(":{port}"));
        let args = [
            "-n",
            namespace,
            "port-forward",
            "--address=127.0.0.1",
            &pod,
            &port,
        ];
        let mut command = Command::from(kubectl.command(&args));
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = lines.next_line().await?.unwrap_or_default();
        // It stops where nobody reads what it says of each connection.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address = line
            .strip_prefix("Forwarding from ")
            .and_then(|rest| rest.split_once(" ->"))
            .with_context(|| format!("failed to reach {pod} through the API server: {line}"))?;
        Ok(Self {
            address: address.0.to_owned(),
            _kubectl: child,
        })
    }
}
