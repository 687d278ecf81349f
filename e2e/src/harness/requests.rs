//! How often Highwater's programs ask the API server, by its audit log.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    audit::{role_of, used},
    kubeconfig,
};

/// How long nobody asks before what was asked counts as all of it.
const QUIET: Duration = Duration::from_secs(3);
/// The longest to wait for that.
const NEVER_QUIET: Duration = Duration::from_secs(60);

/// How often each verb was asked of each resource, by whom: `controller patch highwater.dev/pgbackups/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<String, u32>);

impl Requests {
    /// Of the controller and the agents of one namespace: what lies between two states of the log.
    fn read(text: &[u8], namespace: &str) -> Result<Self> {
        let mut requests = BTreeMap::new();
        // The last line may be on its way still.
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        for line in text[..whole].split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let event: Value =
                serde_json::from_slice(line).context("failed to read the audit log")?;
            if let Some(role) = asks(&event, namespace) {
                let used = used(&event);
                let request = format!("{role} {} {}", used.verb, used.resource);
                *requests.entry(request).or_default() += 1;
            }
        }
        Ok(Self(requests))
    }

    /// How many there were: without those on the lease, which each replica renews or looks at as long as it lives, and
    /// without the beginnings of watches, which end after minutes and begin again.
    pub fn counted(&self) -> u32 {
        let counted = self.0.iter().filter(|(request, _)| counts(request));
        counted.map(|(_, count)| count).sum()
    }

    /// How many there were of the others.
    pub fn apart(&self) -> u32 {
        self.0.values().sum::<u32>() - self.counted()
    }
}

impl std::fmt::Display for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (request, count) in &self.0 {
            let apart = if counts(request) { "" } else { "  (apart)" };
            writeln!(f, "    {count:>4} {request}{apart}")?;
        }
        Ok(())
    }
}

fn counts(request: &str) -> bool {
    !request.ends_with("/leases") && !request.contains(" watch ")
}

/// Who asked, where it is one of those that are counted. A watch is logged when it begins and when it ends.
fn asks(event: &Value, namespace: &str) -> Option<&'static str> {
    let watch = event["verb"] == "watch";
    let stage = if watch {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    let user = event["user"]["username"].as_str()?;
    let account = user.strip_prefix("system:serviceaccount:")?;
    let (its_namespace, account) = account.split_once(':')?;
    let role = match role_of(account)? {
        "controller" => "controller",
        "agent" if its_namespace == namespace => "agent",
        _ => return None,
    };
    (event["stage"] == stage && !event["objectRef"].is_null()).then_some(role)
}

/// From a moment on.
pub struct Counting {
    log: PathBuf,
    from: u64,
    namespace: String,
}

impl Counting {
    /// Begins.
    ///
    /// # Errors
    /// This is not the dev cluster, or its log cannot be read.
    pub fn begin(namespace: &str) -> Result<Self> {
        let log = kubeconfig()?.with_file_name("audit.log");
        let from = fs::metadata(&log)
            .with_context(|| format!("failed to read {}", log.display()))?
            .len();
        Ok(Self {
            log,
            from,
            namespace: namespace.to_owned(),
        })
    }

    /// What was asked since.
    ///
    /// # Errors
    /// The log cannot be read, or was begun anew meanwhile.
    pub fn so_far(&self) -> Result<Requests> {
        let mut file = File::open(&self.log).context("failed to open the audit log")?;
        let rotated = file.metadata()?.len() < self.from;
        ensure!(!rotated, "the audit log was rotated meanwhile: try again");
        file.seek(SeekFrom::Start(self.from))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Requests::read(&text, &self.namespace)
    }

    /// What was asked since, once nobody asks any more.
    ///
    /// # Errors
    /// As [`Self::so_far`], or they go on asking.
    pub async fn to_the_end(&self) -> Result<Requests> {
        let begin = Instant::now();
        let (mut known, mut since) = (self.so_far()?, begin);
        while since.elapsed() < QUIET {
            if begin.elapsed() > NEVER_QUIET {
                bail!("controller and agent go on asking:\n{known}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.so_far()?;
            if now.counted() != known.counted() {
                (known, since) = (now, Instant::now());
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn event(account: &str, verb: &str, resource: &str, stage: &str) -> String {
        let user = format!("system:serviceaccount:{account}");
        let event = json!({
            "user": {"username": user}, "verb": verb, "stage": stage,
            "objectRef": {"apiGroup": "a.b", "resource": resource},
        });
        format!("{event}\n")
    }

    #[test]
    fn leases_and_watches_are_counted_apart_and_others_not_at_all() {
        let (controller, agent) = ("highwater-system:highwater-controller", "ours:x-highwater");
        let done = "ResponseComplete";
        let log = [
            event(controller, "patch", "pgbackups", done),
            event(controller, "patch", "pgbackups", done),
            event(controller, "update", "leases", done),
            event(agent, "get", "pgbackups", done),
            event(agent, "watch", "pgbackups", "ResponseStarted"),
            event(agent, "watch", "pgbackups", done),
            event("theirs:x-highwater", "get", "pgbackups", done),
            event("ours:x-recovery", "get", "pgrestores", done),
            event("kube-system:other", "get", "pods", done),
        ];
        let text = log.concat() + "{\"us";
        let requests = Requests::read(text.as_bytes(), "ours").unwrap();
        assert_eq!((requests.counted(), requests.apart()), (3, 2), "{requests}");
        assert!(
            requests
                .to_string()
                .contains("2 controller patch a.b/pgbackups\n")
        );
        assert_eq!(Requests::read(b"", "ours").unwrap(), Requests::default());
    }
}
