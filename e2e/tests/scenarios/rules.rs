//! What the real API server says of good and bad input: the cases that the unit tests evaluate themselves.

#[path = "../../../tests/cel_cases/mod.rs"]
mod cel_cases;

use anyhow::{Context, Result, ensure};
use cel_cases::{Case, rules};
use highwater_e2e::harness::Kubectl;
use serde_json::{Value, json};

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_the_rules_refuse() {
    scenario("rules", async |deployment, namespace| {
        for (number, case) in rules().iter().enumerate() {
            check(&deployment.kubectl, &namespace, number, case)
                .with_context(|| format!("{}: {}", case.kind, case.message))?;
        }
        Ok(())
    })
    .await;
}

fn check(kubectl: &Kubectl, namespace: &str, number: usize, case: &Case) -> Result<()> {
    let object = |spec: &Value| {
        json!({
            "apiVersion": "highwater.dev/v1alpha1",
            "kind": case.kind,
            "metadata": {"name": format!("rule-{number}"), "namespace": namespace},
            "spec": spec,
        })
        .to_string()
    };
    // What is not a change is only asked about; a change needs something that is there, which a controller may be writing
    // to: a patch does not mind.
    let ask = |spec: &Value| match case.before {
        None => kubectl.run_with_input(&["create", "--dry-run=server", "-f", "-"], &object(spec)),
        Some(_) => {
            let name = format!("rule-{number}");
            let patch = json!([{"op": "replace", "path": "/spec", "value": spec}]).to_string();
            let patched = [
                "-n",
                namespace,
                "patch",
                case.kind,
                &name,
                "--dry-run=server",
            ];
            kubectl.run(&[&patched[..], &["--type=json", "-p", &patch]].concat())
        }
    };
    if let Some(before) = &case.before {
        kubectl.apply(&object(before))?;
    }
    ask(&case.good)?;
    let refused = ask(&case.bad);
    let said = refused.err().map(|error| format!("{error:#}"));
    let said = said.context("the API server takes the bad input")?;
    ensure!(said.contains(case.message), "the API server says: {said}");
    Ok(())
}
