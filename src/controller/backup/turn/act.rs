//! What is read and written to take a turn.

use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::{Claim, Place, as_told, claim, is_over, of, place, refused, written};
use crate::{
    api::{PgBackup, PgProtection, managers},
    controller::backup::{
        Error, act,
        observe::{self, Observed},
        plan::{Plan, Step},
        told::Told,
    },
    kubernetes::apply_status_unchanged,
};

/// The backup that `observed` has to wait for, by what its protection says as it was read.
///
/// # Errors
/// Somebody else has the turn, and cannot be read; or nothing is told of other backups, and they cannot be listed.
pub async fn ahead(
    client: &Client,
    told: &Told,
    observed: &Observed,
) -> Result<Option<String>, Error> {
    let (backup, protection) = (&observed.backup, observed.protection.as_ref());
    let place = protection.map_or(Place::Free, |protection| {
        place(protection, backup, |turn| told.backup(backup, &turn.backup))
    });
    match place {
        Place::Ours => return Ok(None),
        Place::Taken(holder) => return Ok(Some(holder.to_owned())),
        Place::Unknown(turn) => {
            let api = act::api::<PgBackup>(client, backup);
            let holder = observe::get(&api, &turn.backup).await?;
            if !is_over(turn, holder.as_ref()) {
                return Ok(Some(turn.backup.clone()));
            }
        }
        Place::Free => {}
    }
    // Who comes first is a question of order alone: the turn keeps two from beginning.
    match told.first(backup) {
        Some(first) => Ok(first),
        None => observe::ahead(client, backup).await,
    }
}

/// Takes the backup's turn, if its attempt is to begin. Where that is refused the plan is to say so, and the pass fails by it.
///
/// # Errors
/// As [`write_down`], where trying again may help.
pub async fn take(
    client: &Client,
    observed: &Observed,
    plan: Plan,
) -> Result<(Plan, Option<Error>), Error> {
    let Err(error) = write_down(client, observed, &plan).await else {
        return Ok((plan, None));
    };
    match refused(&error) {
        Some(rejection) => {
            let step = Step::Hold(as_told(rejection, &observed.backup));
            Ok((Plan { step, ..plan }, Some(error)))
        }
        None => Err(error),
    }
}

/// Writes down that it is the backup's turn, if its attempt is to begin: over the protection as it was read.
///
/// # Errors
/// As any write; a conflict if anybody has written to the protection since it was read; or the backup has gone on since.
async fn write_down(client: &Client, observed: &Observed, plan: &Plan) -> Result<(), Error> {
    let (Step::Accept(proposal), Some(protection)) = (&plan.step, &observed.protection) else {
        return Ok(());
    };
    let backup = &observed.backup;
    let turn = of(backup, proposal.set.attempt().number);
    match claim(protection, &turn) {
        Claim::Written => return Ok(()),
        Claim::Late => {
            return Err(Error::Late {
                name: backup.name_any(),
            });
        }
        Claim::Write => {}
    }
    let api: Api<PgProtection> =
        Api::namespaced(client.clone(), &backup.namespace().unwrap_or_default());
    let status = json!({ "turn": turn });
    let applied = apply_status_unchanged(&api, &protection.metadata, managers::TURN, &status);
    let applied: PgProtection = applied.await.map_err(|source| Error::Write {
        verb: "take the turn in the status of",
        kind: PgProtection::kind(&()).into_owned(),
        name: protection.name_any(),
        source,
    })?;
    // A server that has the CRD of an older version may leave out what it does not know.
    match written(&applied) == Some(&turn) {
        true => Ok(()),
        false => Err(Error::TurnNotKept {
            name: protection.name_any(),
        }),
    }
}
