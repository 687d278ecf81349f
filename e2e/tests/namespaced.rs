//! Highwater for one namespace: run with `devcluster enter --` on a cluster that has no other Highwater.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, NAMESPACED, Namespaced, Writer,
    audit::{self, ROLES},
    publish, secrets, story,
};

const NAMESPACE: &str = NAMESPACED.served;
/// A namespace that it has no rights in.
const ELSEWHERE: &str = "elsewhere";

#[tokio::test(flavor = "multi_thread")]
async fn serves_its_namespace_and_asks_for_nothing_elsewhere() {
    if let Err(error) = tell().await {
        if let Ok(kubectl) = Kubectl::from_env() {
            println!("{}", kubectl.dump(NAMESPACE));
        }
        panic!("{error:#}");
    }
}

async fn tell() -> Result<()> {
    let kubectl = Kubectl::from_env()?;
    kubectl.make_namespace(NAMESPACE)?;
    let images = publish::load(&publish::programs()?.join("highwater"))?;
    let deployment = Deployment::apply_namespaced(kubectl.clone(), images).await?;
    deployment.namespace(ELSEWHERE)?;
    let other = Database::create(&deployment, ELSEWHERE, "orders", "highwater-btrfs").await?;
    other.annotate("highwater.dev/policy", "gold")?;

    deployment.namespace(NAMESPACE)?;
    let orders = Database::create(&deployment, NAMESPACE, "orders", "highwater-btrfs").await?;
    there_and_back(&orders).await?;
    let left_alone = kubectl.list(ELSEWHERE, "pgx")?.is_empty();
    ensure!(left_alone, "{ELSEWHERE} has a protection");
    nothing_forbidden()?;
    rights_end_at_the_namespace(&kubectl)?;
    secrets::none_told(&kubectl, NAMESPACE, NAMESPACED.system)?;

    orders.annotate("highwater.dev/policy", "")?;
    let delete = ["delete", "pgx", "orders", "--timeout=120s"];
    kubectl.run(&[&["-n", NAMESPACE], &delete[..]].concat())?;
    nothing_forbidden()?;
    the_namespace_goes(&kubectl)
}

/// Protected, backed up and restored.
async fn there_and_back(orders: &Database) -> Result<()> {
    let kubectl = &orders.kubectl;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, NAMESPACE, "orders").await?;
    let (time, before) = story::between_commits(&writer, &orders.connect().await?).await?;
    story::commits(&writer, 100).await?;
    writer.stop().await?;
    let target = format!("{{time: \"{time}\"}}");
    let from = ("earlier", "orders");
    story::restore(kubectl, NAMESPACE, from, "clone", &target).await?;
    let clone = Database::existing(kubectl, NAMESPACE, "clone");
    let found = Ledger::check(&clone.connect().await?, before, before).await?;
    println!("restored rows 1 to {found} with the rights of one namespace");
    Ok(())
}

fn nothing_forbidden() -> Result<()> {
    let seen = audit::seen()?;
    for role in ROLES {
        let seen = seen.get(role);
        let seen = seen.with_context(|| format!("the {role} asked for nothing"))?;
        let refused = &seen.refused;
        ensure!(refused.is_empty(), "the {role} may not: {refused:?}");
    }
    Ok(())
}

/// The control: what the program would ask for without its namespace is refused.
fn rights_end_at_the_namespace(kubectl: &Kubectl) -> Result<()> {
    let Namespaced { system, served } = NAMESPACED;
    let account = format!("--as=system:serviceaccount:{system}:highwater-controller");
    let may = |scope: &[&str], verb: &str, kind: &str| {
        let ask = [&["auth", "can-i", verb, kind, &account][..], scope].concat();
        // kubectl ends with 1 where the answer is no.
        let output = kubectl.command(&ask).output();
        let output = output.context("failed to run kubectl")?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).trim() == "yes")
    };
    for (verb, kind) in [
        ("list", "pgbackups.highwater.dev"),
        ("create", "pods"),
        ("create", "rolebindings"),
    ] {
        let here = may(&["-n", served], verb, kind)?;
        ensure!(here, "it may not {verb} {kind}");
        for scope in [&["--all-namespaces"][..], &["-n", ELSEWHERE]] {
            ensure!(!may(scope, verb, kind)?, "{scope:?}: it may {verb} {kind}");
        }
    }
    Ok(())
}

/// As `docs/runbooks/remove.md` has it: the RoleBinding goes first, and what is backed up stays.
fn the_namespace_goes(kubectl: &Kubectl) -> Result<()> {
    let before = kubectl.snapshot_contents(NAMESPACE)?.len();
    ensure!(before > 0, "there is no snapshot");
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let account = format!(
        "--serviceaccount={}:highwater-controller",
        NAMESPACED.system
    );
    let role = "--clusterrole=highwater-controller";
    let rescue = ["create", "clusterrolebinding", "highwater-rescue"];
    kubectl.run(&[&rescue[..], &[role, &account]].concat())?;
    let gone = format!("namespace/{NAMESPACE}");
    kubectl.run(&["wait", "--for=delete", &gone, "--timeout=180s"])?;
    let after = kubectl.snapshot_contents(NAMESPACE)?.len();
    ensure!(after == before, "{after} of {before} contents are left");
    kubectl.run(&["delete", "clusterrolebinding", "highwater-rescue"])?;
    Ok(())
}
