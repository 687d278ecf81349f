//! Where a restore goes: a copy for testing is as it was asked for, and acts as nobody; what cannot be is refused before
//! anything is made; a Secret that is missing is waited for.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, Watching, condition, gone, said, story, until,
};
use serde_json::{Value, json};

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_for_testing_is_as_it_was_asked_for() {
    scenario("into", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (_, writer, _) = story::protected(deployment, namespace).await?;
    story::commits(&writer, 200).await?;
    refusals(kubectl, namespace).await?;
    a_plan_lists_what_is_needed(kubectl, namespace).await?;

    let least = writer.ledger.acknowledged();
    for (name, into) in [
        ("testing", testing()),
        ("named", named()),
        ("stopped", json!({"statefulSet": "stopped", "replicas": 0})),
    ] {
        request(kubectl, namespace, name, &into)?;
    }
    story::completed(kubectl, namespace, "testing").await?;
    let testing = Database::existing(kubectl, namespace, "testing");
    let sent = writer.ledger.sent();
    Ledger::check(&testing.connect().await?, least, sent).await?;
    println!(
        "{}",
        kubectl.run(&["-n", namespace, "get", "pgr", "testing"])?
    );
    is_as_asked_for(kubectl, namespace)?;
    is_selected_by_its_own_service_alone(kubectl, namespace).await?;
    is_protected(kubectl, namespace).await?;

    story::completed(kubectl, namespace, "named").await?;
    let claim = one(kubectl, namespace, "pvc", "orders.copy")?;
    ensure!(claim["status"]["phase"] == "Bound", "{claim}");
    ensure!(claim["metadata"]["labels"]["team"] == "qa", "{claim}");

    story::completed(kubectl, namespace, "stopped").await?;
    let pod = kubectl.get(namespace, "pod", "stopped-0")?;
    ensure!(pod.is_none(), "it was started");
    let stopped = Database::existing(kubectl, namespace, "stopped");
    stopped.scale(1).await?;
    Ledger::check(&stopped.connect().await?, least, writer.ledger.sent()).await?;

    missing_secrets_are_waited_for(kubectl, namespace).await?;
    writer.stop().await.map(drop)
}

/// With what is on no list, too: the API server drops it.
fn testing() -> Value {
    json!({
        "statefulSet": "testing",
        "size": "2Gi",
        "resources": {"requests": {"memory": 104_857_600}, "limits": {"memory": "900Mi"}, "claims": [{"name": "gpu"}]},
        "scheduling": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "testing", "operator": "Exists"}],
            "priorityClassName": "",
            "serviceAccountName": "admin",
        },
        "labels": {"team": "qa"},
        "policy": "gold",
        "image": "other",
        "env": [{"name": "SCOPE", "value": "orders"}],
        "patch": {"spec": {"template": {"spec": {"hostNetwork": true}}}},
    })
}

fn named() -> Value {
    let names = json!([{"volume": "data", "claim": "orders.copy"}]);
    json!({"volumes": {"names": names}, "labels": {"team": "qa"}})
}

/// Unknown fields are asked for as an old client would, that does not look.
fn request(kubectl: &Kubectl, namespace: &str, name: &str, into: &Value) -> Result<()> {
    let spec = json!({"source": {"protection": "orders"}, "into": into});
    create(kubectl, namespace, name, &spec)
}

fn create(kubectl: &Kubectl, namespace: &str, name: &str, spec: &Value) -> Result<()> {
    let restore = json!({
        "apiVersion": "highwater.dev/v1alpha1",
        "kind": "PgRestore",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    let create = ["create", "--validate=ignore", "-f", "-"];
    kubectl
        .run_with_input(&create, &restore.to_string())
        .map(drop)
}

fn one(kubectl: &Kubectl, namespace: &str, kind: &str, name: &str) -> Result<Value> {
    let found = kubectl.get(namespace, kind, name)?;
    found.with_context(|| format!("there is no {kind} {name}"))
}

fn is_as_asked_for(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let restore = one(kubectl, namespace, "pgr", "testing")?;
    let into = &restore["spec"]["into"];
    for (field, place) in [
        ("image", into),
        ("env", into),
        ("patch", into),
        ("serviceAccountName", &into["scheduling"]),
        ("claims", &into["resources"]),
    ] {
        ensure!(place[field].is_null(), "{field} is kept: {into}");
    }
    for (kind, name) in [
        ("statefulset", "testing"),
        ("service", "testing"),
        ("pod", "testing-0"),
        ("pvc", "data-testing-0"),
    ] {
        let labels = one(kubectl, namespace, kind, name)?["metadata"]["labels"].clone();
        ensure!(labels["team"] == "qa", "{kind} {name}: {labels}");
        ensure!(labels["app"].is_null(), "{kind} {name}: {labels}");
    }
    let claim = one(kubectl, namespace, "pvc", "data-testing-0")?;
    for size in [
        &claim["spec"]["resources"]["requests"]["storage"],
        &claim["status"]["capacity"]["storage"],
    ] {
        let is_greater = ["2Gi", "2147483648"].iter().any(|it| size == it);
        ensure!(is_greater, "{claim}");
    }
    let spec = one(kubectl, namespace, "pod", "testing-0")?["spec"].clone();
    let container = &spec["containers"][0];
    let asked = json!({"requests": {"memory": "104857600"}, "limits": {"memory": "900Mi"}});
    ensure!(container["resources"] == asked, "{container}");
    ensure!(
        spec["nodeSelector"]["kubernetes.io/os"] == "linux",
        "{spec}"
    );
    let tolerations = spec["tolerations"].to_string();
    ensure!(tolerations.contains("testing"), "{tolerations}");
    ensure!(spec["serviceAccountName"] == "default", "{spec}");
    ensure!(spec["hostNetwork"].is_null(), "{spec}");
    let env = container["env"].to_string();
    ensure!(!env.contains("SCOPE"), "{env}");
    Ok(())
}

/// The source's Service never sends a client to the copy.
async fn is_selected_by_its_own_service_alone(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let targets = |service: &str| -> Result<Vec<String>> {
        let slices = kubectl.list(namespace, "endpointslices")?;
        let its =
            |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service;
        let names = slices.iter().filter(its).flat_map(|slice| {
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            endpoints.filter_map(|it| it["targetRef"]["name"].as_str())
        });
        Ok(names.map(str::to_owned).collect())
    };
    until("the copy behind its Service", story::LIMIT, || {
        Ok((targets("testing")? == ["testing-0"]).then_some(()))
    })
    .await?;
    let orders = targets("orders")?;
    ensure!(orders == ["orders-0"], "{orders:?}");
    Ok(())
}

/// From its first moment, in a lineage of its own.
async fn is_protected(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let set = one(kubectl, namespace, "statefulset", "testing")?;
    let annotations = &set["metadata"]["annotations"];
    ensure!(annotations["highwater.dev/policy"] == "gold", "{set}");
    story::first_backup(kubectl, namespace, "testing").await?;
    let lineage = |name: &str| -> Result<Value> {
        Ok(one(kubectl, namespace, "pgx", name)?["status"]["lineage"].clone())
    };
    let (its, sources) = (lineage("testing")?, lineage("orders")?);
    ensure!(its.is_string() && its != sources, "{its} {sources}");
    Ok(())
}

/// What is asked for, the reason of the refusal, and words of it.
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let set = |more: Value| {
        let mut into = json!({"statefulSet": "refused"});
        if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
            into.extend(more);
        }
        into
    };
    let names = json!([{"volume": "wal", "claim": "a"}]);
    vec![
        (
            set(json!({"size": "10Mi"})),
            "SizeTooSmall",
            "into.size is 10485760 bytes, the volume data needs at least 1073741824",
        ),
        (
            set(json!({"labels": {"app": "orders"}})),
            "SelectedByOthers",
            "would select the clone's pods, by what into.labels gives them: choose other labels",
        ),
        (
            set(json!({"labels": {"a/b/c": "d"}})),
            "InvalidLabel",
            "as in example.com/team",
        ),
        (
            set(json!({"resources": {"limits": {"memory": "2GB"}}})),
            "InvalidResources",
            "into.resources.limits.memory \"2GB\" is no quantity: write it as in 500m or 2Gi",
        ),
        (
            set(json!({"policy": "platinum"})),
            "PolicyNotFound",
            "PgBackupPolicy platinum of into.policy does not exist: create it",
        ),
        (
            json!({"volumes": {"names": names}}),
            "VolumesNotNamed",
            "(data): no claim is given for data, and it has no wal",
        ),
    ]
}

/// Each says what to do, and makes nothing.
async fn refusals(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let claims = || kubectl.list(namespace, "pvc,statefulset,service,pod");
    let before = claims()?.len();
    // What nobody could decode is not even stored.
    let wish = json!({"weight": 9_999_999_999_u64, "preference": {}});
    let wishes = json!({"preferredDuringSchedulingIgnoredDuringExecution": [wish]});
    let scheduling = json!({"affinity": {"nodeAffinity": wishes}});
    let into = json!({"statefulSet": "refused", "scheduling": scheduling});
    let refusal = request(kubectl, namespace, "undecodable", &into).err();
    let refusal = refusal.context("the API server takes a weight beyond 32 bits")?;
    ensure!(format!("{refusal:#}").contains("2147483647"), "{refusal:#}");
    let cases = refused();
    for (number, (into, ..)) in cases.iter().enumerate() {
        request(kubectl, namespace, &format!("refused-{number}"), into)?;
    }
    for (number, (_, reason, words)) in cases.iter().enumerate() {
        let name = format!("refused-{number}");
        let ended = ("Completed", "False");
        let found = condition(kubectl, namespace, ("pgr", &name), ended, story::LIMIT).await?;
        let completed = said(&found, "Completed").context("no Completed")?;
        println!("{}: {}", completed["reason"], completed["message"]);
        let message = completed["message"].as_str().unwrap_or_default();
        ensure!(completed["reason"] == *reason, "{completed}");
        ensure!(message.contains(words), "{completed}");
    }
    let after = claims()?.len();
    ensure!(before == after, "{before} objects became {after}");
    Ok(())
}

/// A plan lists what the pods need, and makes nothing.
async fn a_plan_lists_what_is_needed(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let into = json!({"statefulSet": "orders-testing"});
    let source = json!({"protection": "orders"});
    let spec = json!({"source": source, "into": into, "planOnly": true});
    create(kubectl, namespace, "look", &spec)?;
    let found = story::completed(kubectl, namespace, "look").await?;
    let completed = said(&found, "Completed").context("no Completed")?;
    let message = completed["message"].as_str().unwrap_or_default();
    println!("{message}");
    let needs = "; the pods of orders-testing need Secret orders-credentials here";
    ensure!(message.ends_with(needs), "{message}");
    Ok(())
}

/// Each is named, by recovery and by the clone, an event warns, and the restore goes on when it is there again.
async fn missing_secrets_are_waited_for(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    // The kubelet misses the first as a volume, and the second as a variable.
    let secrets = ["bucket", "orders-credentials"];
    let mut kept = Vec::new();
    for secret in secrets {
        let mut found = one(kubectl, namespace, "secret", secret)?;
        found["metadata"] = json!({"name": secret, "namespace": namespace});
        kubectl.run(&["-n", namespace, "delete", "secret", secret])?;
        kept.push(found);
    }
    let into = json!({"statefulSet": "lacking"});
    request(kubectl, namespace, "lacking", &into)?;
    for (secret, kept) in secrets.iter().zip(kept) {
        is_said_to_be_missing(kubectl, namespace, secret).await?;
        kubectl.apply(&kept.to_string())?;
    }
    story::completed(kubectl, namespace, "lacking").await?;
    until("an event that warns", story::LIMIT, || {
        let events = kubectl.list(namespace, "events")?;
        let its = |event: &&Value| {
            event["involvedObject"]["name"] == "lacking"
                && event["reason"] == "MissingReference"
                && event["type"] == "Warning"
        };
        Ok(events.iter().find(its).map(|_| ()))
    })
    .await?;
    clean_up(kubectl, namespace, "lacking").await
}

async fn is_said_to_be_missing(kubectl: &Kubectl, namespace: &str, secret: &str) -> Result<()> {
    let name = format!("secret \"{secret}\" not found: create it in this namespace");
    let message = |it: &Value| -> Option<String> {
        let completed = said(it, "Completed")?;
        let is_missing = completed["reason"] == "MissingReference";
        let message = completed["message"].as_str().filter(|_| is_missing)?;
        Some(message.to_owned())
    };
    let told = Watching::one(kubectl, namespace, "pgr", "lacking")?
        .wait(&name, story::LIMIT, |it| {
            message(it).is_some_and(|message| message.contains(&name))
        })
        .await?;
    let message = message(&told).unwrap_or_default();
    println!("{message}");
    let needs = "the pods of lacking need Secret orders-credentials here";
    ensure!(message.contains(needs), "{message}");
    Ok(())
}

/// A copy is its user's by now.
async fn clean_up(kubectl: &Kubectl, namespace: &str, copy: &str) -> Result<()> {
    let label = format!("highwater.dev/restore={copy}");
    let delete = |what: &[&str]| kubectl.run(&[&["-n", namespace, "delete"], what].concat());
    delete(&["statefulset,service", copy])?;
    delete(&["pvc", "--wait=false", "-l", &label])?;
    delete(&["pgr", copy])?;
    for (kind, name) in [
        ("pvc", format!("data-{copy}-0")),
        ("pod", format!("{copy}-0")),
    ] {
        gone(kubectl, namespace, kind, &name).await?;
    }
    Ok(())
}
