//! One deployment of Highwater for all scenarios of a run.

use std::time::Instant;

use anyhow::Result;
use highwater_e2e::harness::{Deployment, Kubectl, publish, secrets};
use tokio::sync::{OnceCell, RwLock};

static DEPLOYMENT: OnceCell<Deployment> = OnceCell::const_new();
/// Who kills the controller, which all scenarios share, does so alone.
static CONTROLLER: RwLock<()> = RwLock::const_new(());

/// Highwater, built from this checkout, deployed from `manifests/`.
pub async fn deployment() -> Result<Deployment> {
    DEPLOYMENT.get_or_try_init(deploy).await.cloned()
}

async fn deploy() -> Result<Deployment> {
    let kubectl = Kubectl::from_env()?;
    let images = publish::load(&publish::programs()?.join("highwater"))?;
    Deployment::apply_for_many(kubectl, images).await
}

/// Runs a scenario in a namespace of its own; where it fails, prints what a person would look at.
pub async fn scenario(name: &str, story: impl AsyncFnOnce(Deployment, String) -> Result<()>) {
    let _shared = CONTROLLER.read().await;
    run(name, story).await;
}

/// As [`scenario`], while no other runs.
pub async fn scenario_alone(name: &str, story: impl AsyncFnOnce(Deployment, String) -> Result<()>) {
    let _alone = CONTROLLER.write().await;
    run(name, story).await;
}

async fn run(name: &str, story: impl AsyncFnOnce(Deployment, String) -> Result<()>) {
    let deployment = match deployment().await {
        Ok(deployment) => deployment,
        Err(error) => panic!("failed to deploy Highwater: {error:#}"),
    };
    let (namespace, begin) = (format!("e2e-{name}"), Instant::now());
    let told = async {
        deployment.namespace(&namespace)?;
        story(deployment.clone(), namespace.clone()).await?;
        secrets::none_told(&deployment.kubectl, &namespace, &deployment.system)
    };
    if let Err(error) = told.await {
        println!("{}", deployment.kubectl.dump(&namespace));
        panic!("scenario {name}: {error:#}");
    }
    // What it has left would only take memory and time from the others.
    let gone = [
        "delete",
        "namespace",
        &namespace,
        "--wait=false",
        "--ignore-not-found",
    ];
    if let Err(error) = deployment.kubectl.run(&gone) {
        panic!("scenario {name}: {error:#}");
    }
    println!("scenario {name}: {:.0} s", begin.elapsed().as_secs_f64());
}
