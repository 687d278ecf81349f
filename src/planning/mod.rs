//! The planning pod: `highwater plan` chooses base backup and timeline of a restore whose source is an archive, as the agent
//! does where there is a PgProtection, and tells the controller what the catalog says of that backup.

mod choose;

use std::{sync::Arc, time::Duration};

use kube::{Api, Client};

use self::choose::{Refused, choose};
use crate::{
    api::{
        ArchiveSource, PgArchive, PgRestore, PgRestoreSpec, PgRestoreStatus, RestoreBase,
        RestorePlan,
        conditions::{self, PLANNED, Status},
        managers,
    },
    archive::{Archive, MountedSecrets, OpenError, ReadError, store},
    clock::{Clock, SystemClock},
    controller::context::Chain,
    kubernetes::{RequestError, apply_status, request},
    recovery::{fetch::MountedPaths, patiently},
};

/// The pauses between tries: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// Arguments of `highwater plan`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The namespace of the restore.
    #[arg(long, env = "HIGHWATER_NAMESPACE")]
    namespace: String,
    /// The PgRestore's name.
    #[arg(long)]
    restore: String,
    /// Where the archive's Secrets and directory are mounted.
    #[command(flatten)]
    mounted: MountedPaths,
}

/// What ends the program with exit code 1, so that it is started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client: neither in a pod nor with a kubeconfig.
    #[error("failed to make a client for the Kubernetes API")]
    Client(#[from] kube::Error),
    /// The API server says no, or does not answer.
    #[error("failed to read or report about the restore")]
    Request(#[from] RequestError),
    /// The controller starts planning pods for restores from an archive only.
    #[error("the source of PgRestore {0} is no archive")]
    OtherSource(String),
}

/// Why there is no plan yet; another try may help.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Trouble {
    fn reason(&self) -> &'static str {
        match self {
            Self::Open(error) => error.reason(),
            Self::Read(error) => error.reason(),
        }
    }
}

/// Plans what the PgRestore says. Trouble with the archive is told in `Planned`, and it is tried again.
///
/// # Errors
/// See [`Error`].
pub async fn run(args: Args) -> Result<(), Error> {
    let client = Client::try_default().await?;
    let restores: Api<PgRestore> = Api::namespaced(client.clone(), &args.namespace);
    let restore = patiently(|| request(restores.get(&args.restore))).await?;
    let known = restore.status.clone().unwrap_or_default().conditions;
    // Chosen once: killed after that, there is nothing to do again.
    if conditions::is_true(&known, PLANNED) || conditions::is_false(&known, PLANNED) {
        tracing::info!("the restore is planned: nothing to do");
        return Ok(());
    }
    let source = restore.spec.source.archive.clone();
    let source = source.ok_or_else(|| Error::OtherSource(args.restore.clone()))?;
    let archives: Api<PgArchive> = Api::namespaced(client, &args.namespace);
    let writer = Writer {
        restores,
        name: args.restore.clone(),
        generation: restore.metadata.generation,
        clock: Arc::new(SystemClock),
    };
    let mut pause = PAUSES.0;
    loop {
        let archive = patiently(|| request(archives.get(&source.archive))).await?;
        let outcome = once(&archive, &args.mounted, &restore.spec, &source).await;
        match outcome {
            Ok(decided) => return writer.decided(decided).await,
            Err(trouble) => writer.trouble(&trouble).await?,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

type Decided = Result<(RestorePlan, RestoreBase), Refused>;

async fn once(
    archive: &PgArchive,
    mounted: &MountedPaths,
    spec: &PgRestoreSpec,
    source: &ArchiveSource,
) -> Result<Decided, Trouble> {
    let mounted = MountedSecrets {
        credentials: mounted.credentials.clone(),
        ca_file: mounted.ca.clone(),
        directory: mounted.directory.clone(),
    };
    let store = store::open(&archive.spec, &mounted)?;
    // Nothing is written here: whom to encrypt to does not matter, and a recipient that is none does no harm.
    let mut readable = archive.spec.clone();
    readable.encryption = None;
    let archive = Archive::new(store, &readable, &source.name)?;
    Ok(choose(&archive, spec, source).await?)
}

/// Writes the planning pod's part of the status.
struct Writer {
    restores: Api<PgRestore>,
    name: String,
    generation: Option<i64>,
    clock: Arc<dyn Clock>,
}

impl Writer {
    async fn decided(&self, decided: Decided) -> Result<(), Error> {
        match decided {
            Ok((plan, base)) => {
                let summary = plan.summary.clone();
                let found = (Some(plan), Some(base));
                self.write(found, Status::True, "Planned", &summary).await
            }
            Err(refused) => {
                let Refused { reason, message } = refused;
                self.write((None, None), Status::False, reason, &message)
                    .await
            }
        }
    }

    async fn trouble(&self, trouble: &Trouble) -> Result<(), Error> {
        let message = Chain(trouble).to_string();
        self.write((None, None), Status::Unknown, trouble.reason(), &message)
            .await
    }

    async fn write(
        &self,
        found: (Option<RestorePlan>, Option<RestoreBase>),
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        tracing::info!(restore = self.name, reason, "{message}");
        patiently(|| self.apply(&found, status, reason, message)).await?;
        Ok(())
    }

    async fn apply(
        &self,
        (plan, base): &(Option<RestorePlan>, Option<RestoreBase>),
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<(), RequestError> {
        let before = request(self.restores.get(&self.name)).await?;
        let before = before.status.unwrap_or_default().conditions;
        let mut conditions = conditions::owned(&before, &[PLANNED]);
        conditions::upsert(
            &mut conditions,
            PLANNED,
            status,
            reason,
            message,
            self.generation,
            self.clock.now(),
        );
        let part = PgRestoreStatus {
            plan: plan.clone(),
            base: base.clone(),
            conditions,
            ..PgRestoreStatus::default()
        };
        apply_status(&self.restores, &self.name, managers::PLANNING, &part).await?;
        Ok(())
    }
}
