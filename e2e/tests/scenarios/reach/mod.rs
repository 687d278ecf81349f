//! How far each program's rights reach (docs/security.md), asked with its own token; what a restore may take from elsewhere;
//! and what a restore and a backup remove that is deleted, or whose snapshot was.

mod removal;
mod requests;

use anyhow::Result;
use highwater_e2e::harness::{Account, Database, Deployment, Kubectl, Request, story, until};
use serde_json::{Value, json};

use self::requests::{Kinds, dry, get, merge, plan, post};
use super::setup::scenario;

/// RBAC's word.
const NO_RIGHT: &str = " cannot ";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_reaches_as_far_as_docs_security_says() {
    scenario("reach", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let client = orders.connect().await?;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS n")
        .await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    neighbours(kubectl, namespace)?;
    hold_a_restore(kubectl, namespace).await?;

    let name = text(&backup["metadata"]["name"]);
    the_agent(kubectl, namespace, name).await?;
    the_recovery_pod(kubectl, namespace).await?;
    the_planning_pod(kubectl, namespace).await?;
    the_controller(deployment, namespace).await?;

    removal::a_restore_deleted_at_hand_over_leaves_nothing(kubectl, namespace).await?;
    removal::nothing_is_restored_from_elsewhere(kubectl, namespace, name).await?;
    removal::a_backup_that_is_deleted_is_not_restored_from(kubectl, namespace, name).await?;
    removal::a_snapshot_that_somebody_deleted(kubectl, namespace, &backup).await?;
    removal::what_is_told_again_is_counted(kubectl, namespace).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A protection `billing` in the same namespace, with a backup and restores. It has no database; nobody is asked for one.
fn neighbours(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: highwater.dev/v1alpha1\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let restore = |name: &str, source: &str| {
        let spec = format!(
            "{{source: {source}, target: {{latest: {{}}}}, into: {{statefulSet: {name}}}}}"
        );
        object("PgRestore", name, &spec)
    };
    let all = [
        object(
            "PgProtection",
            "billing",
            "{statefulSet: nobody, policy: gold}",
        ),
        object("PgBackup", "billing-1", "{protection: billing}"),
        restore("of-billing", "{protection: billing}"),
        restore("of-its-backup", "{backup: billing-1}"),
        // Its planning pod asks a store that does not answer, as long as it is let.
        object(
            "PgArchive",
            "nowhere",
            "{s3: {bucket: nowhere, endpoint: \"http://127.0.0.1:1\", allowHttp: true}, credentials: {secretName: bucket}}",
        ),
        object(
            "PgRestore",
            "unplanned",
            "{source: {archive: {archive: nowhere, name: any}}, planOnly: true}",
        ),
    ];
    kubectl.apply(&all.concat()).map(drop)
}

/// A restore whose clone cannot start: somebody else's pod, which never runs, has the name of the clone's.
async fn hold_a_restore(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "held-0", "namespace": namespace},
        "spec": {"nodeSelector": {"nowhere": "here"}, "containers": [{"name": "other", "image": "nothing"}]},
    });
    kubectl.apply(&pod.to_string())?;
    let from = ("held", "{protection: orders}");
    story::request_restore(kubectl, namespace, from, "held", "{latest: {}}")?;
    until("the clone's StatefulSet and Service", story::LIMIT, || {
        let service = kubectl.get(namespace, "service", "held")?;
        Ok(service.and(kubectl.get(namespace, "statefulset", "held")?))
    })
    .await?;
    Ok(())
}

/// Requires that each is forbidden, in words that hold `by`.
async fn none(account: &Account, by: &str, requests: Vec<Request>) -> Result<()> {
    for request in requests {
        account.may_not(&request, by).await?;
    }
    Ok(())
}

/// Requires that each is allowed.
async fn all<const N: usize>(account: &Account, requests: [Request; N]) -> Result<()> {
    for request in requests {
        account.may(&request).await?;
    }
    Ok(())
}

async fn the_agent(kubectl: &Kubectl, namespace: &str, backup: &str) -> Result<()> {
    let agent = Account::of(kubectl, namespace, "orders-highwater").await?;
    let kinds = Kinds {
        namespace,
        manager: "highwater-agent",
    };
    none(&agent, NO_RIGHT, beyond_its_kinds(namespace)).await?;
    let of_backup = kinds.path(&format!("pgbackups/{backup}"));
    let orders = kinds.path("pgprotections/orders");
    let requests = vec![
        merge(&orders, json!({"spec": {"policy": "other"}})),
        merge(&of_backup, json!({"metadata": {"finalizers": null}})),
        dry("DELETE", &of_backup, "application/json", json!({})),
        post(&kinds.path("pgbackups"), json!({})),
        post(&kinds.path("pgrestores"), json!({})),
        kinds.status("pgarchives/main", "store"),
    ];
    none(&agent, NO_RIGHT, requests).await?;
    its_own_protection(&agent, &kinds, backup).await?;
    its_own_restores(&agent, &kinds, backup).await
}

/// What nobody but the controller, or nobody at all, reads and makes in the namespace.
fn beyond_its_kinds(namespace: &str) -> Vec<Request> {
    let core = format!("/api/v1/namespaces/{namespace}");
    let read = [
        format!("{core}/secrets"),
        format!("{core}/secrets/orders-credentials"),
        format!("{core}/configmaps"),
        format!("{core}/pods"),
        format!("{core}/events"),
        format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"),
        format!("/apis/snapshot.storage.k8s.io/v1/namespaces/{namespace}/volumesnapshots"),
        "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents".to_owned(),
        "/apis/highwater.dev/v1alpha1/pgbackups".to_owned(),
        "/apis/highwater.dev/v1alpha1/namespaces/default/pgbackups".to_owned(),
    ];
    let made = [
        format!("{core}/pods"),
        format!("{core}/serviceaccounts/billing-highwater/token"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
    ];
    let made = made.map(|path| post(&path, json!({})));
    read.map(get).into_iter().chain(made).collect()
}

/// Status and events: its own, and of these its own fields.
async fn its_own_protection(agent: &Account, kinds: &Kinds<'_>, backup: &str) -> Result<()> {
    let (orders, billing) = (("PgProtection", "orders"), ("PgProtection", "billing"));
    let (ours, theirs) = (("PgBackup", backup), ("PgBackup", "billing-1"));
    let own = [
        get(kinds.path("pgbackups")),
        kinds.condition(orders, "Connected"),
        kinds.condition(ours, "Stopped"),
        kinds.event(orders),
        kinds.event(ours),
    ];
    all(agent, own).await?;
    let protection = vec![
        kinds.condition(billing, "Connected"),
        kinds.condition(orders, "Active"),
        kinds.status("pgprotections/orders", "members"),
        kinds.status("pgprotections/orders", "archiveName"),
        kinds.status("pgprotections/orders", "conditions"),
    ];
    none(agent, "'highwater-agent-protection'", protection).await?;
    let of_backup = format!("pgbackups/{backup}");
    let backups = vec![
        kinds.condition(theirs, "Stopped"),
        kinds.condition(ours, "Completed"),
        kinds.status(&of_backup, "volumes"),
        kinds.status(&of_backup, "attempt"),
        kinds.status(&of_backup, "conditions"),
    ];
    none(agent, "'highwater-agent-backup'", backups).await?;
    let another = Kinds {
        manager: "kubelet",
        ..*kinds
    };
    let events = vec![
        kinds.event(billing),
        kinds.event(("Pod", "orders-0")),
        another.event(orders),
    ];
    none(agent, "'highwater-agent-event'", events).await
}

/// It plans restores of its protection, by its backups.
async fn its_own_restores(agent: &Account, kinds: &Kinds<'_>, backup: &str) -> Result<()> {
    let held = ("PgRestore", "held");
    let [of_billing, of_its_backup] = ["of-billing", "of-its-backup"].map(|it| ("PgRestore", it));
    let own = [
        kinds.apply(held, plan(backup)),
        kinds.condition(held, "Planned"),
    ];
    all(agent, own).await?;
    let restores = vec![
        kinds.condition(of_billing, "Planned"),
        kinds.condition(("PgRestore", "unplanned"), "Planned"),
        kinds.condition(held, "Completed"),
        kinds.condition(held, "Recovered"),
        kinds.status("pgrestores/held", "volumes"),
    ];
    none(agent, "'highwater-agent-restore'", restores).await?;
    let by_backup = vec![
        kinds.condition(of_its_backup, "Planned"),
        kinds.apply(held, plan("billing-1")),
    ];
    none(agent, "'highwater-agent-restore-backup'", by_backup).await
}

async fn the_recovery_pod(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let recovery = Account::of(kubectl, namespace, "held-recovery").await?;
    let kinds = Kinds {
        namespace,
        manager: "highwater-recovery",
    };
    let (held, other) = (("PgRestore", "held"), ("PgRestore", "of-billing"));
    let own = [
        get(kinds.path("pgrestores/held")),
        get(kinds.path("pgarchives/main")),
        kinds.condition(held, "Recovered"),
        kinds.apply(held, json!({"progress": {"percent": "1%", "segments": 1}})),
    ];
    all(&recovery, own).await?;
    none(&recovery, NO_RIGHT, beyond_its_kinds(namespace)).await?;
    let path = kinds.path("pgrestores/held");
    let requests = vec![
        get(kinds.path("pgrestores")),
        get(kinds.path("pgbackups")),
        get(kinds.path("pgprotections")),
        kinds.event(held),
        merge(&path, json!({"metadata": {"finalizers": null}})),
    ];
    none(&recovery, NO_RIGHT, requests).await?;
    let requests = vec![
        kinds.condition(other, "Recovered"),
        kinds.condition(held, "Completed"),
        kinds.condition(held, "Planned"),
        kinds.status("pgrestores/held", "plan"),
    ];
    none(&recovery, "'highwater-recovery'", requests).await
}

async fn the_planning_pod(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let account = "unplanned-planning";
    until("the planning pod's rights", story::LIMIT, || {
        let bound = kubectl.get(namespace, "rolebinding", account)?;
        Ok(bound.and(kubectl.get(namespace, "serviceaccount", account)?))
    })
    .await?;
    let planning = Account::of(kubectl, namespace, account).await?;
    let kinds = Kinds {
        namespace,
        manager: "highwater-planning",
    };
    let (unplanned, held) = (("PgRestore", "unplanned"), ("PgRestore", "held"));
    let own = [
        get(kinds.path("pgrestores/unplanned")),
        get(kinds.path("pgarchives/nowhere")),
        kinds.condition(unplanned, "Planned"),
        kinds.apply(unplanned, plan("any")),
    ];
    all(&planning, own).await?;
    none(&planning, NO_RIGHT, beyond_its_kinds(namespace)).await?;
    let requests = vec![
        kinds.condition(held, "Planned"),
        kinds.condition(unplanned, "Completed"),
        kinds.condition(unplanned, "Recovered"),
        kinds.apply(unplanned, json!({"into": "elsewhere"})),
    ];
    none(&planning, "'highwater-planning'", requests).await
}

async fn the_controller(deployment: &Deployment, namespace: &str) -> Result<()> {
    let (system, manager) = (deployment.system.as_str(), "highwater-controller");
    let controller = Account::of(&deployment.kubectl, system, manager).await?;
    let core = format!("/api/v1/namespaces/{namespace}");
    let kinds = Kinds { namespace, manager };
    let read = [
        "/api/v1/secrets".to_owned(),
        "/api/v1/nodes".to_owned(),
        format!("{core}/secrets/orders-credentials"),
        format!("{core}/pods/orders-0/log"),
        format!("/apis/coordination.k8s.io/v1/namespaces/{system}/leases/other"),
        format!("{DEFINITIONS}/pgrestores.highwater.dev"),
    ];
    none(&controller, NO_RIGHT, read.map(get).into()).await?;
    let made = [
        format!("{core}/pods/orders-0/exec"),
        format!("{core}/serviceaccounts/default/token"),
        format!("{RBAC}/clusterrolebindings"),
        format!("{RBAC}/clusterroles"),
        format!("{RBAC}/namespaces/{namespace}/roles"),
        "/api/v1/persistentvolumes".to_owned(),
        kinds.path("pgarchives"),
        kinds.path("pgbackuppolicies"),
    ];
    let made = made.map(|path| post(&path, json!({})));
    none(&controller, NO_RIGHT, made.into()).await?;
    let path = kinds.path("pgprotections/orders");
    let delete = dry("DELETE", &path, "application/json", json!({}));
    none(&controller, NO_RIGHT, vec![delete]).await?;
    what_it_gives_away(&controller, namespace).await?;
    // What docs/security.md warns of: a pod has what it mounts.
    let pod = json!({"metadata": {"name": "tried"}, "spec": {
        "containers": [{"name": "a", "image": "a"}],
        "volumes": [{"name": "a", "secret": {"secretName": "orders-credentials"}}],
    }});
    all(&controller, [post(&format!("{core}/pods"), pod)]).await
}

/// The two shipped roles; of others what it has itself, and no more.
async fn what_it_gives_away(controller: &Account, namespace: &str) -> Result<()> {
    let path = format!("{RBAC}/namespaces/{namespace}/rolebindings");
    let bind = |role: &str| {
        let role =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        let binding = json!({"metadata": {"name": "tried"}, "roleRef": role, "subjects": []});
        post(&path, binding)
    };
    all(
        controller,
        ["highwater-agent", "highwater-recovery"].map(bind),
    )
    .await?;
    let more = ["cluster-admin", "system:node"].map(bind);
    let refused = "attempting to grant RBAC permissions not currently held";
    none(controller, refused, more.into()).await
}
