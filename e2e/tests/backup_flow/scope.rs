//! What deletes every PgBackup at once, without anybody having asked for the data to go.

use anyhow::Result;
use highwater::api::PgBackup;
use highwater_e2e::flow::Lifeline;
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, CustomResourceExt, api::DeleteParams};

use super::{
    ALONE,
    fixture::{Fixture, define_kinds, is_completed, start},
    wait::until,
};

#[tokio::test]
async fn a_namespace_that_goes_does_not_take_the_snapshots() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-namespace").await?;
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("kept", "orders").await?;
    let backup = fixture
        .play("kept", "the backup completes", is_completed)
        .await?;
    let namespaces = Api::<Namespace>::all(fixture.client.clone());
    namespaces
        .delete(&fixture.namespace, &DeleteParams::default())
        .await?;
    until("the namespace is gone", || async {
        let left = namespaces.get_opt(&fixture.namespace).await?;
        Ok(left.is_none().then_some(()))
    })
    .await?;
    fixture.require_kept(&backup).await?;
    fixture.discard(&backup).await?;
    controller.abort();
    Ok(())
}

#[tokio::test]
async fn a_crd_that_goes_does_not_take_the_snapshots() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-crd").await?;
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("kept", "orders").await?;
    let backup = fixture
        .play("kept", "the backup completes", is_completed)
        .await?;
    let kinds = Api::<CustomResourceDefinition>::all(fixture.client.clone());
    let name = PgBackup::crd_name();
    kinds.delete(name, &DeleteParams::default()).await?;
    let gone = until("the CRD is gone, and every PgBackup with it", || async {
        Ok(kinds.get_opt(name).await?.is_none().then_some(()))
    })
    .await;
    controller.abort();
    // First of all: the other tests need it.
    define_kinds(&fixture.client).await?;
    gone?;
    fixture.require_complete(&backup).await?;
    fixture.require_kept(&backup).await?;

    // The same with the one PgBackup, which somebody does ask for.
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("deleted", "orders").await?;
    let deleted = fixture
        .play("deleted", "the backup completes", is_completed)
        .await?;
    fixture.delete_to_the_end("deleted").await?;
    fixture.require_nothing_left(&deleted).await?;
    fixture.require_kept(&backup).await?;
    controller.abort();
    fixture.discard(&backup).await
}
