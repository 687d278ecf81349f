//! Watches who a Service sends its clients to.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Kubectl, until};

/// Notes every EndpointSlice of a Service, from now until it is asked.
pub struct EndpointWatch {
    seen: Arc<Mutex<Vec<String>>>,
    watch: Child,
}

impl EndpointWatch {
    /// Begins, and waits for the slices that are there.
    ///
    /// # Errors
    /// kubectl cannot run, or the Service has no endpoint.
    pub async fn start(kubectl: &Kubectl, namespace: &str, service: &str) -> Result<Self> {
        let selector = format!("kubernetes.io/service-name={service}");
        // One line an event: the names of the pods behind the Service.
        let columns = "jsonpath={range .endpoints[*]}{.targetRef.name}{\" \"}{end}{\"\\n\"}";
        let mut command = Command::from(kubectl.command(&[
            "-n",
            namespace,
            "get",
            "endpointslices",
            "-l",
            &selector,
            "--watch",
            "-o",
            columns,
        ]));
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut watch = command.spawn().context("failed to start kubectl")?;
        let output = watch.stdout.take().context("kubectl has no output")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let names = line.split_whitespace().map(str::to_owned);
                note.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(names);
            }
        });
        let this = Self { seen, watch };
        until("an endpoint", std::time::Duration::from_secs(30), || {
            Ok((!this.pods().is_empty()).then_some(()))
        })
        .await?;
        Ok(this)
    }

    fn pods(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends it.
    ///
    /// # Errors
    /// Another pod than `only` was seen, or the watch broke off.
    pub fn only(mut self, only: &str) -> Result<()> {
        ensure!(
            self.watch.try_wait()?.is_none(),
            "the watch of the EndpointSlices broke off"
        );
        let mut others = self.pods();
        others.retain(|pod| pod != only);
        others.dedup();
        ensure!(
            others.is_empty(),
            "the Service sent clients to {others:?} beside {only}"
        );
        Ok(())
    }
}
