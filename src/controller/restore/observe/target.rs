//! Reads what there is where a restore goes.

use futures::future::try_join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, ResourceExt, api::ListParams, core::PartialObjectMeta};

use super::{super::clone::Selecting, Observed, Reader};
use crate::{
    api::{PgBackupPolicy, names},
    kubernetes::{RequestError, request},
};

pub(super) struct TargetSeen {
    pub(super) claims: Vec<PersistentVolumeClaim>,
    pub(super) set: Option<StatefulSet>,
    pub(super) service: Option<PartialObjectMeta<Service>>,
    pub(super) pod: Option<Pod>,
    pub(super) clone_pod: Option<Pod>,
    pub(super) selecting: Vec<Selecting>,
    pub(super) policy_exists: bool,
}

pub(super) async fn target(
    reader: &Reader<'_>,
    observed: &Observed,
    claims: &[String],
    first_pod: Option<String>,
) -> Result<TargetSeen, RequestError> {
    let into = &observed.into;
    let clone = into.stateful_set.as_deref();
    let recovery = names::recovery(&observed.identity.name);
    let services: Api<Service> = reader.api();
    let all = ListParams::default();
    let policy = async { reader.get::<PgBackupPolicy>(into.policy.as_deref()).await };
    let (set, pod, clone_pod, services, budgets, sets, claims, policy) = futures::try_join!(
        reader.get(clone),
        reader.get(Some(&recovery)),
        reader.get(first_pod.as_deref()),
        request(services.list(&all)),
        budgets(reader),
        sets(reader, observed),
        all_claims(reader, claims),
        policy,
    )?;
    let its = services.iter().filter_map(|service| {
        let selector = service.spec.as_ref()?.selector.as_ref();
        Selecting::service(&service.name_any(), selector)
    });
    let others = budgets.iter().filter_map(Selecting::budget);
    let others = others.chain(sets.iter().filter_map(Selecting::set));
    let selecting = others.chain(its).collect();
    let service = services
        .items
        .into_iter()
        .find(|service| Some(service.name_any().as_str()) == clone)
        .map(|service| PartialObjectMeta {
            metadata: service.metadata,
            ..PartialObjectMeta::default()
        });
    Ok(TargetSeen {
        claims,
        set,
        service,
        pod,
        clone_pod,
        selecting,
        policy_exists: policy.is_some(),
    })
}

async fn budgets(reader: &Reader<'_>) -> Result<Vec<PodDisruptionBudget>, RequestError> {
    let api: Api<PodDisruptionBudget> = reader.api();
    Ok(request(api.list(&ListParams::default())).await?.items)
}

/// A StatefulSet selects by labels that its own pods have, so never by Highwater's alone.
async fn sets(reader: &Reader<'_>, observed: &Observed) -> Result<Vec<StatefulSet>, RequestError> {
    if observed.into.labels.is_empty() {
        return Ok(Vec::new());
    }
    let api: Api<StatefulSet> = reader.api();
    Ok(request(api.list(&ListParams::default())).await?.items)
}

async fn all_claims(
    reader: &Reader<'_>,
    names: &[String],
) -> Result<Vec<PersistentVolumeClaim>, RequestError> {
    let found = names.iter().map(|name| reader.get(Some(name)));
    Ok(try_join_all(found).await?.into_iter().flatten().collect())
}
