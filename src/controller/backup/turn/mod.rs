//! Whose turn it is: of one database's backups one at a time is in backup mode. Pure, but for [`act`].
//!
//! Two controllers may work for a moment, where one does not know yet that it has lost its Lease. To look who comes first
//! is not enough then: both may see a free place and take it. So an attempt begins only after its backup stands in the
//! status of the PgProtection, written over what was read there and nothing newer: of two such writes one is refused. It is
//! taken over only from an attempt that is over, which can never change again; and whoever accepts an attempt writes over
//! the backup as it was read, so that one who was held up meanwhile is refused, too.

pub mod act;
#[cfg(test)]
mod model;

use kube::ResourceExt;

use super::{
    Error,
    attempt::clip,
    door::Rejection,
    observe::{is_accepted, is_finished},
    validate,
};
use crate::{
    api::{PgBackup, PgProtection, Turn},
    controller::context::Chain,
};

/// The API server does not keep it.
const NOT_KEPT: &str = "TurnNotKept";
/// The API server, or an admission policy of it, says no.
const REFUSED: &str = "TurnRefused";

/// What has to stand in the status before attempt `number` of `backup` begins.
pub fn of(backup: &PgBackup, number: u32) -> Turn {
    Turn {
        backup: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        attempt: number,
    }
}

/// The turn that is written down.
pub fn written(protection: &PgProtection) -> Option<&Turn> {
    protection.status.as_ref()?.turn.as_ref()
}

/// Whether the attempt has ended, or will never begin. Once it is so it stays so: an old answer is as good as a new one. The
/// agent has one session in backup mode, and ends that of an attempt that is over before it begins another. `holder`: the PgBackup of that name; `None`: there is none.
pub fn is_over(turn: &Turn, holder: Option<&PgBackup>) -> bool {
    let holder = holder.filter(|holder| holder.metadata.uid.as_ref() == Some(&turn.uid));
    let Some(holder) = holder else { return true };
    let status = holder.status.as_ref();
    let number = status.and_then(|status| status.attempt.as_ref());
    let number = number.map_or(0, |attempt| attempt.number);
    // It began, and was given up.
    let void = number >= turn.attempt && !is_accepted(holder);
    holder.metadata.deletion_timestamp.is_some() || is_finished(holder) || void
}

/// What is to be done to take a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is written down.
    Written,
    /// To write it down.
    Write,
    /// A later attempt of the same backup has it: who asks has read the backup before that, and would give the turn away.
    Late,
}

/// What is to be done before the attempt of `wanted` may begin.
pub fn claim(protection: &PgProtection, wanted: &Turn) -> Claim {
    match written(protection) {
        Some(turn) if turn == wanted => Claim::Written,
        Some(turn) if turn.uid == wanted.uid && turn.attempt > wanted.attempt => Claim::Late,
        Some(_) | None => Claim::Write,
    }
}

/// Who has the turn, as far as this tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Nobody: the order decides who begins.
    Free,
    /// The backup that asks: it may begin, whoever came before it.
    Ours,
    /// Another one.
    Taken(&'a str),
    /// Another one, of which nothing is told: it has to be read whether it is over.
    Unknown(&'a Turn),
}

/// What the status says to `backup`. `told`: the PgBackup that has the turn, as it was told of last. That it is gone, a watch
/// cannot tell: it may not have told of it yet.
pub fn place<'a>(
    protection: &'a PgProtection,
    backup: &PgBackup,
    told: impl FnOnce(&Turn) -> Option<PgBackup>,
) -> Place<'a> {
    let Some(turn) = written(protection) else {
        return Place::Free;
    };
    if backup.metadata.uid.as_ref() == Some(&turn.uid) {
        return match is_over(turn, Some(backup)) {
            true => Place::Free,
            false => Place::Ours,
        };
    }
    let told = told(turn).filter(|told| told.metadata.uid.as_ref() == Some(&turn.uid));
    match told {
        None => Place::Unknown(turn),
        Some(told) if is_over(turn, Some(&told)) => Place::Free,
        Some(_) => Place::Taken(&turn.backup),
    }
}

/// What the backup is told where its turn could not be taken by `error`. `None`: trying again is all there is to it.
pub fn refused(error: &Error) -> Option<Rejection> {
    let why = clip(&Chain(error).to_string());
    match error {
        Error::TurnNotKept { .. } => Some(Rejection::TurnNotTaken {
            reason: NOT_KEPT,
            why,
        }),
        Error::Write { source, .. } if source.is_refusal() => Some(Rejection::TurnNotTaken {
            reason: REFUSED,
            why: format!(
                "{why}; apply the CRDs and manifests of this version, or mend what refuses it"
            ),
        }),
        Error::Read { .. }
        | Error::Write { .. }
        | Error::NameTaken { .. }
        | Error::Late { .. }
        | Error::Report { .. } => None,
    }
}

/// `rejection`, as the backup was told already where that differs by numbers alone, as ports and times do: a status that
/// changed with each try would wake the next one at once.
pub fn as_told(rejection: Rejection, backup: &PgBackup) -> Rejection {
    let letters = |it: &Rejection| -> String {
        let text = it.to_string();
        text.chars().filter(|it| !it.is_ascii_digit()).collect()
    };
    let is_same =
        |it: &Rejection| it.reason() == rejection.reason() && letters(it) == letters(&rejection);
    let told = backup.status.as_ref().and_then(validate::said);
    let told = told.as_ref().and_then(said).filter(is_same);
    told.unwrap_or(rejection)
}

/// The same, from what `Accepted` says: reason and sentence.
pub fn said((reason, why): &(String, String)) -> Option<Rejection> {
    let mut reasons = [NOT_KEPT, REFUSED].into_iter();
    let reason = reasons.find(|it| it == reason)?;
    let why = why.clone();
    Some(Rejection::TurnNotTaken { reason, why })
}
