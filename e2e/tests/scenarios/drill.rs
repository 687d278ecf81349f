//! Drills: one that is passed says so and leaves nothing, one that is not says so and keeps what it made.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Deployment, Kubectl, condition, measure, said, story, until};
use serde_json::Value;

use super::{phases, setup::scenario};

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_restores_looks_and_leaves_nothing() {
    scenario("drill", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_looks_at_a_drills_database_and_at_nothing_else() {
    scenario("drillprogram", async |deployment, namespace| {
        ask(&deployment, &namespace).await
    })
    .await;
}

/// It sees the rows, and neither writes nor reads what others log in with; in its container is nothing of recovery's.
const LOOKS: &str = r#"
set -eu
rows=$(psql -XAtc 'SELECT count(*) FROM ledger')
test "$rows" -ge "$0" || { echo "$rows rows, and $0 were acknowledged"; exit 1; }
denied() {
  said=$(psql -XAtc "$1" 2>&1) && { echo "allowed: $1"; exit 1; }
  case $said in *"permission denied"*) ;; *) echo "$1: $said"; exit 1 ;; esac
}
denied 'CREATE TABLE public.mine (n int)'
denied 'DELETE FROM ledger'
denied 'SELECT rolpassword FROM pg_authid'
denied "SELECT pg_read_file('PG_VERSION')"
said=$(psql -XU postgres -c 'SELECT 1' 2>&1) && { echo 'as a superuser'; exit 1; }
case $said in *"no pg_hba.conf entry"*) ;; *) echo "$said"; exit 1 ;; esac
test "$(id -u)" = 65532
for path in /etc/highwater /var/run/secrets/kubernetes.io /highwater/run /var/lib/postgresql/data/pgdata; do
  test ! -e $path || { echo "$path is there"; exit 1; }
done
touch /highwater/check/request/mine 2>/dev/null && { echo 'it writes requests'; exit 1; }
touch /highwater/bin/mine 2>/dev/null && { echo 'it writes programs'; exit 1; }
echo 'all is well'
"#;

async fn ask(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (_, writer, backup) = story::protected(deployment, namespace).await?;
    story::commits(&writer, 50).await?;

    let program = |command: Value| {
        let images = &deployment.images;
        let (image, policy) = (&images.postgres, &images.pull_policy);
        let program =
            serde_json::json!({"image": image, "imagePullPolicy": policy, "command": command});
        serde_json::json!({ "program": program }).to_string()
    };
    let least = writer.ledger.acknowledged().to_string();
    let looks = program(serde_json::json!(["sh", "-c", LOOKS, least]));
    drill(kubectl, namespace, "looks", &looks)?;
    let passed = ended(kubectl, namespace, "looks", "True").await?;
    let checks = &passed["status"]["progress"]["checks"];
    ensure!(checks[1]["name"] == "Program", "{checks}");

    let script = "echo first; echo too few rows since Monday >&2; exit 4";
    let says_no = program(serde_json::json!(["sh", "-c", script]));
    drill(kubectl, namespace, "says-no", &says_no)?;
    let failed = ended(kubectl, namespace, "says-no", "False").await?;
    let backup = backup["metadata"]["name"].as_str().context("no name")?;
    let backup = kubectl
        .get(namespace, "pgb", backup)?
        .context("no backup")?;
    for said in [of(&failed, "Completed")?, of(&backup, "Verified")?] {
        ensure!(said["reason"] == "ProgramFailed", "{said}");
        let message = said["message"].as_str().unwrap_or_default();
        let expected = ["exit code 4", "too few rows since Monday"];
        ensure!(expected.iter().all(|it| message.contains(it)), "{message}");
    }
    // The sidecar keeps no pod running: it ends with recovery.
    until("the recovery pod has ended", story::LIMIT, || {
        let pod = kubectl.get(namespace, "pod", "says-no-recovery")?;
        let pod = pod.context("no pod")?;
        Ok((pod["status"]["phase"] == "Succeeded").then_some(()))
    })
    .await?;
    unpulled(deployment, namespace).await?;
    writer.stop().await?;
    Ok(())
}

/// An image that is not there is told, before anything is replayed; the drill goes with its PgRestore.
async fn unpulled(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let missing = r#"{"program": {"image": "localhost/no-such-image:1", "imagePullPolicy": "Never", "command": ["check"]}}"#;
    drill(kubectl, namespace, "unpulled", missing)?;
    until("the missing image is told", story::LIMIT, || {
        let restore = kubectl
            .get(namespace, "pgr", "unpulled")?
            .context("no restore")?;
        let Ok(said) = of(&restore, "Completed") else {
            return Ok(None);
        };
        let message = said["message"].as_str().unwrap_or_default();
        Ok(message
            .contains("container check of pod unpulled-recovery: ErrImageNeverPull")
            .then_some(()))
    })
    .await?;
    let delete = [
        "-n",
        namespace,
        "delete",
        "pgr",
        "unpulled",
        "--timeout=120s",
    ];
    kubectl.run(&delete)?;
    Ok(())
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (_, writer, backup) = story::protected(deployment, namespace).await?;
    let backup = backup["metadata"]["name"]
        .as_str()
        .context("no name")?
        .to_owned();
    story::commits(&writer, 200).await?;

    // Both at once: the second waits for the first.
    let least = writer.ledger.acknowledged();
    let sql = format!("SELECT count(*) >= {least} FROM ledger");
    drill(
        kubectl,
        namespace,
        "first",
        &format!("{{checks: [Amcheck], sql: \"{sql}\"}}"),
    )?;
    drill(
        kubectl,
        namespace,
        "second",
        "{sql: \"SELECT count(*) < 0 FROM ledger\"}",
    )?;

    let passed = ended(kubectl, namespace, "first", "True").await?;
    let checks = &passed["status"]["progress"]["checks"];
    let checks: Vec<&str> = checks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|check| check["name"].as_str())
        .collect();
    ensure!(checks == ["Start", "Sql", "Amcheck"], "{passed}");
    let failed = ended(kubectl, namespace, "second", "False").await?;
    let said = of(&failed, "Completed")?;
    ensure!(said["reason"] == "VerificationFailed", "{said}");
    let message = said["message"].as_str().unwrap_or_default();
    ensure!(message.contains("row 1 of 1 is not true"), "{message}");
    one_at_a_time(&passed, &failed)?;
    // One of the two waited for the other, and says so apart from the rest.
    phases::told(deployment, namespace, &passed)?;
    let queued = [&passed, &failed].map(|it| it["status"]["phases"]["queueSeconds"].as_f64());
    ensure!(
        queued.into_iter().flatten().any(|seconds| seconds > 1.0),
        "{queued:?}"
    );

    told(kubectl, namespace, &backup)?;
    counted(deployment, namespace)?;
    // What failed is kept until it is deleted, what was passed is gone.
    until(
        "only the failed drill's claim is left",
        story::LIMIT,
        || {
            let claims = kubectl.list(namespace, "persistentvolumeclaims")?;
            let mut names: Vec<_> = claims
                .iter()
                .filter_map(|it| it["metadata"]["name"].as_str())
                .collect();
            names.sort_unstable();
            Ok((names == ["data-orders-0", "second-data"]).then_some(()))
        },
    )
    .await?;
    kubectl.run(&[
        "-n",
        namespace,
        "delete",
        "pgr",
        "first",
        "second",
        "--timeout=120s",
    ])?;
    let claims = kubectl.list(namespace, "persistentvolumeclaims")?;
    ensure!(claims.len() == 1, "{claims:?}");
    // The source wrote on all the time, on its own timeline.
    story::commits(&writer, 10).await?;
    writer.stop().await?;
    Ok(())
}

fn drill(kubectl: &Kubectl, namespace: &str, name: &str, verify: &str) -> Result<()> {
    let rest = format!("verify: {verify}");
    story::request(kubectl, namespace, (name, "{protection: orders}"), &rest)
}

async fn ended(kubectl: &Kubectl, namespace: &str, name: &str, status: &str) -> Result<Value> {
    condition(
        kubectl,
        namespace,
        ("pgr", name),
        ("Completed", status),
        story::LIMIT,
    )
    .await
}

fn of<'a>(object: &'a Value, type_: &str) -> Result<&'a Value> {
    said(object, type_).with_context(|| format!("no condition {type_}"))
}

/// The one that waited has made its plan before the other's end, and its claims were ready after it.
fn one_at_a_time(passed: &Value, failed: &Value) -> Result<()> {
    let at = |object: &Value, type_: &str| -> Result<jiff::Timestamp> {
        let at = of(object, type_)?["lastTransitionTime"]
            .as_str()
            .context("no time")?;
        Ok(at.parse()?)
    };
    let times =
        [passed, failed].map(|it| anyhow::Ok((at(it, "VolumesReady")?, at(it, "Recovered")?)));
    let [first, second] = times;
    let (first, second) = (first?, second?);
    ensure!(
        first.1 <= second.0 || second.1 <= first.0,
        "both at once: {first:?} {second:?}"
    );
    Ok(())
}

/// Of the backup by its condition, of the protection by what was passed last.
fn told(kubectl: &Kubectl, namespace: &str, backup: &str) -> Result<()> {
    let found = kubectl
        .get(namespace, "pgb", backup)?
        .context("no backup")?;
    let verified = of(&found, "Verified")?;
    let by = verified["message"].as_str().unwrap_or_default();
    ensure!(
        by.contains("PgRestore first") || by.contains("PgRestore second"),
        "{verified}"
    );
    let completed = of(&found, "Completed")?;
    ensure!(completed["status"] == "True", "{completed}");
    let protection = kubectl
        .get(namespace, "pgx", "orders")?
        .context("no protection")?;
    let last = &protection["status"]["lastVerified"];
    ensure!(
        last["restore"] == "first" && last["backup"] == backup,
        "{last}"
    );
    ensure!(
        protection["status"]["lastBackup"]["name"] == backup,
        "{protection}"
    );
    Ok(())
}

fn counted(deployment: &Deployment, namespace: &str) -> Result<()> {
    let controller = "app.kubernetes.io/component=controller";
    let metrics = measure::metrics(&deployment.kubectl, &deployment.system, controller)?.join("\n");
    for outcome in ["Passed", "Failed"] {
        let is_it = |line: &&str| {
            line.starts_with("highwater_drills_total{")
                && line.contains(&format!("namespace=\"{namespace}\""))
                && line.contains(&format!("outcome=\"{outcome}\""))
        };
        let line = metrics
            .lines()
            .find(is_it)
            .with_context(|| format!("{outcome}: not counted"))?;
        ensure!(line.ends_with(" 1"), "{line}");
    }
    Ok(())
}
