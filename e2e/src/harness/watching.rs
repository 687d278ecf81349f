//! Watches objects through kubectl, so that nothing passes unseen.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Deserializer, Value};
use tokio::{sync::watch, time::timeout};

use super::Kubectl;

/// All that happened to some objects since it began.
pub struct Watching {
    events: watch::Receiver<Vec<Value>>,
    process: Child,
}

impl Watching {
    /// Begins: `what` names the objects as `kubectl get` takes them.
    ///
    /// # Errors
    /// kubectl cannot run.
    pub fn start(kubectl: &Kubectl, namespace: &str, what: &[&str]) -> Result<Self> {
        Self::telling(kubectl, namespace, what, |_| ())
    }

    /// As [`Self::start`], and shows `tell` each state as it comes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn telling(
        kubectl: &Kubectl,
        namespace: &str,
        what: &[&str],
        mut tell: impl FnMut(&Value) + Send + 'static,
    ) -> Result<Self> {
        let args = [&["-n", namespace, "get"], what, &["--watch", "-o", "json"]].concat();
        let mut command = kubectl.command(&args);
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start kubectl")?;
        let output = process.stdout.take().context("kubectl has no output")?;
        let (sender, events) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for object in Deserializer::from_reader(output).into_iter::<Value>() {
                let Ok(object) = object else { return };
                tell(&object);
                sender.send_modify(|events| events.push(object));
            }
        });
        Ok(Self { events, process })
    }

    /// One object, whether it is there yet or not.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn one(kubectl: &Kubectl, namespace: &str, kind: &str, name: &str) -> Result<Self> {
        let name = format!("--field-selector=metadata.name={name}");
        Self::start(kubectl, namespace, &[kind, &name])
    }

    /// Every state of every object so far, oldest first.
    ///
    /// # Errors
    /// The watch broke off, so something may be missing.
    pub fn events(&mut self) -> Result<Vec<Value>> {
        ensure!(
            self.process.try_wait()?.is_none(),
            "kubectl get --watch broke off"
        );
        Ok(self.events.borrow().clone())
    }

    /// Waits for a state, old or new.
    ///
    /// # Errors
    /// There is none in time, or the watch broke off.
    pub async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut found = None;
        let waiting = self.events.wait_for(|events| {
            found = events.iter().find(|event| wanted(event)).cloned();
            found.is_some()
        });
        let why = match timeout(limit, waiting).await {
            Ok(Ok(_)) => String::new(),
            Ok(Err(_)) => "kubectl get --watch broke off".to_owned(),
            Err(_) => format!("not within {} s", limit.as_secs()),
        };
        let Some(found) = found else {
            let events = self.events.borrow();
            let last = events
                .last()
                .map(|last| last["status"]["conditions"].to_string());
            bail!("{what}: {why}; last: {}", last.unwrap_or_default())
        };
        Ok(found)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
