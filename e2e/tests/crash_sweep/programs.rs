//! The programs under test, each at the end of a line that breaks.

use anyhow::Result;
use highwater::{
    agent::{self, Args, Metrics},
    controller::{Scope, server::Health},
};
use highwater_e2e::flow::{
    Lifeline,
    wire::{Cut, Wire},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    fixture::start_in,
    site::{PROTECTION, Site},
};

/// A backup controller for one namespace. Dropped, it is killed.
pub struct Controller {
    pub lifeline: Lifeline,
    task: AbortOnDropHandle<()>,
}

impl Controller {
    pub async fn start(site: &Site, lifeline: Lifeline) -> Result<Self> {
        let scope = Scope::Namespace(site.fixture.namespace.clone());
        let task = start_in(&lifeline.client().await?, scope);
        site.life().controllers.push(lifeline.clone());
        Ok(Self {
            lifeline,
            task: AbortOnDropHandle::new(task),
        })
    }

    /// Nothing of it runs any more.
    pub async fn kill(self) {
        self.lifeline.die();
        end(self.task).await;
    }
}

/// An agent. Dropped, it is killed.
pub struct Agent {
    pub lifeline: Lifeline,
    pub wire: Wire,
    task: AbortOnDropHandle<()>,
}

impl Agent {
    pub async fn start(site: &Site, lifeline: Lifeline, cut: Option<Cut>) -> Result<Self> {
        let wire = Wire::start(site.database.port, &lifeline, cut).await?;
        let args = Args {
            namespace: site.fixture.namespace.clone(),
            protection: PROTECTION.to_owned(),
            port: wire.port,
            database: "postgres".to_owned(),
            user: None,
            user_file: None,
            password_file: None,
            password: None,
            archive_credentials: None,
            archive_ca: None,
            archive_directory: site.archive_directory(),
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            instance: None,
        };
        let client = lifeline.client().await?;
        site.life().agents.push(lifeline.clone());
        site.life().wires.push(wire.record.clone());
        let (metrics, health) = (Metrics::default(), Health::default());
        let work = agent::work(args, client, metrics, health, CancellationToken::new());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = work.await {
                println!("the agent ended: {error}");
            }
        }));
        Ok(Self {
            lifeline,
            wire,
            task,
        })
    }

    /// Nothing of it runs any more.
    pub async fn kill(self) {
        self.lifeline.die();
        end(self.task).await;
    }
}

async fn end(task: AbortOnDropHandle<()>) {
    task.abort();
    // That it was cancelled is what was asked for.
    let _ = task.await;
}
