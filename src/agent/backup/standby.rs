//! The primary beside a standby that is backed up.
//!
//! A standby writes no WAL. Its backup begins at its last restart point, which is a checkpoint of the primary, and ends at
//! what it had to replay. So the primary is in backup mode around the standby's: that makes the checkpoint, with WAL behind
//! it that is shipped for certain; its end switches the segment that the backup ends in; and its clock is the one of the
//! commits that a restore is compared with. A primary that is replaced meanwhile loses this session.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    plan::Loss,
    session::{self, APPLICATION, PING_ANSWER, StartError, Terms, check_primary},
};
use crate::{
    agent::{primary::Login, shared::Link},
    controller::context::Chain,
    postgres::{
        BackupLabel, Lsn, TimelineId,
        backup_mode::{self, Started, Stopped},
        server,
        session::{Client, QueryError},
        standby, wal_reader,
    },
};

/// How long the standby may take to replay the primary's checkpoint.
const REPLAY: Duration = Duration::from_secs(60);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// A session in backup mode with the primary.
pub struct Primary {
    client: Client,
    since: Instant,
    started: Started,
}

impl Primary {
    /// Begins backup mode on the primary, and on `standby` when that has replayed the primary's checkpoint. Returns what counts
    /// as the backup's beginning.
    ///
    /// # Errors
    /// Why not.
    pub async fn begin(
        login: &Login,
        link: &Link,
        standby: &Client,
        terms: &Terms<'_>,
    ) -> Result<(Self, Started), StartError> {
        // Asked again at the end, which is late to hear that the role may not.
        standby::minimum_timeline(standby)
            .await
            .map_err(StartError::failed)?;
        let client = login.connect_as(APPLICATION, &link.address).await;
        let client = client.map_err(|error| StartError::new(error.reason(), Chain(&error)))?;
        let facts = server::facts(&client).await.map_err(StartError::failed)?;
        check_primary(&facts, link, "the primary")?;
        // One that is far behind costs the primary no checkpoint.
        replay(standby, flushed(&client).await?).await?;
        let started = session::begin(&client, terms).await?;
        let since = Instant::now();
        let primary = Self {
            client,
            since,
            started,
        };
        let around = tokio::time::timeout(terms.ceiling, primary.around(standby, terms.label));
        let around = tokio::select! {
            around = around => around,
            () = primary.ended() => {
                return Err(StartError::new("PrimaryLost", "the session with the primary was lost before its standby was in backup mode"));
            }
        };
        let started = around.map_err(|_| too_slow(terms.ceiling))??;
        Ok((primary, started))
    }

    /// Begins backup mode on `standby`. As it counts for the backup: with the primary's clock.
    async fn around(&self, standby: &Client, label: &str) -> Result<Started, StartError> {
        // The checkpoint that it was is flushed: it lies before this.
        replay(standby, flushed(&self.client).await?).await?;
        if let Err(error) = standby::restart_point(standby).await {
            // Backup mode begins with one, if this was none.
            tracing::debug!(error = %Chain(&error), "no restart point of its own");
        }
        // At once: it holds a snapshot of rows until its restart point is made, and costs the primary nothing.
        let started = backup_mode::start(standby, label, true);
        let started = started.await.map_err(StartError::failed)?;
        begins(&self.started, &started)?;
        Ok(Started {
            at: self.started.at,
            ..started
        })
    }

    /// When backup mode began on the primary.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        self.client.ended().await;
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// The session is lost.
    pub async fn ping(&self) -> Result<(), QueryError> {
        self.client.ping().await
    }

    /// Ends backup mode here after it has ended on `standby`, and judges what that returned.
    ///
    /// # Errors
    /// The standby followed another primary meanwhile, or a session is lost.
    pub async fn end(&self, standby: &Client, stopped: Stopped) -> Result<Stopped, Loss> {
        let timeline = standby::minimum_timeline(standby).await;
        let timeline = timeline.map_err(|error| told(Loss::Session, &error))?;
        let own = backup_mode::stop(&self.client).await;
        let own = own.map_err(|error| told(Loss::Primary, &error))?;
        ends(self.started.timeline, timeline, &stopped, own.stop_lsn)?;
        Ok(Stopped {
            at: own.at,
            ..stopped
        })
    }
}

fn too_slow(ceiling: Duration) -> StartError {
    let seconds = ceiling.as_secs();
    let message = format!(
        "the standby was not in backup mode within {seconds} s of the primary (the policy's deadlines.backupMode): see whether its disk keeps up with its restart points, or set backupFrom: PreferStandby"
    );
    StartError::new("StandbyBehind", message)
}

/// Up to where the primary has written WAL that a standby can have.
async fn flushed(primary: &Client) -> Result<Lsn, StartError> {
    let flushed = answer(wal_reader::flush_position(primary), "the primary").await?;
    Ok(flushed.lsn)
}

/// What `server` says in time.
async fn answer<T, E: std::error::Error>(
    asked: impl Future<Output = Result<T, E>>,
    server: &str,
) -> Result<T, StartError> {
    match tokio::time::timeout(PING_ANSWER, asked).await {
        Ok(said) => said.map_err(StartError::failed),
        Err(_) => {
            let seconds = PING_ANSWER.as_secs();
            let message = format!("{server} did not answer within {seconds} s");
            Err(StartError::new("StartFailed", message))
        }
    }
}

fn told(loss: Loss, error: &QueryError) -> Loss {
    tracing::warn!(error = %Chain(error), "failed to end backup mode beside the standby");
    loss
}

/// Waits until the standby has replayed up to `lsn`.
async fn replay(standby: &Client, lsn: Lsn) -> Result<(), StartError> {
    let begin = Instant::now();
    loop {
        let end = answer(wal_reader::end(standby), "the standby").await?;
        if !end.in_recovery {
            let message = "the standby was promoted before its backup began";
            return Err(StartError::new("NotStandby", message));
        }
        if end.lsn >= lsn {
            return Ok(());
        }
        if begin.elapsed() >= REPLAY {
            return Err(StartError::new("StandbyBehind", behind(end.lsn, lsn)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn behind(replayed: Lsn, wanted: Lsn) -> String {
    let seconds = REPLAY.as_secs();
    format!(
        "the standby has replayed up to {replayed} and not, within {seconds} s, up to {wanted}, where the primary's checkpoint is: see whether its replay is paused, delayed (recovery_min_apply_delay) or held up by queries, or set backupFrom: PreferStandby"
    )
}

/// Whether a backup may begin with the standby's restart point. Pure.
fn begins(primary: &Started, standby: &Started) -> Result<(), StartError> {
    if standby.timeline != primary.timeline {
        let message = format!(
            "the standby's restart point is on timeline {}, the primary writes timeline {}",
            standby.timeline, primary.timeline
        );
        return Err(StartError::new("TimelineChanged", message));
    }
    if standby.start_lsn < primary.start_lsn {
        let message = format!(
            "the standby's restart point is at {}, before the primary's checkpoint at {}, which it has replayed: it cannot make one there yet (see its log)",
            standby.start_lsn, primary.start_lsn
        );
        return Err(StartError::new("StandbyBehind", message));
    }
    Ok(())
}

/// Whether the standby stayed on its primary's timeline. `minimum`: that of what it must replay; `primary`: where backup mode
/// ended on the primary, later. Pure.
fn ends(
    began: TimelineId,
    minimum: Option<TimelineId>,
    stopped: &Stopped,
    primary: Lsn,
) -> Result<(), Loss> {
    let label = BackupLabel::parse(&stopped.label).ok();
    let same = label.is_some_and(|label| label.start_timeline == began) && minimum == Some(began);
    match same && stopped.stop_lsn < primary {
        true => Ok(()),
        false => Err(Loss::OtherTimeline),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn started(lsn: u64, on: u32) -> Started {
        Started {
            start_lsn: Lsn::new(lsn),
            timeline: timeline(on),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_backup_of_a_standby_begins_at_the_primarys_checkpoint_or_later() {
        let primary = started(0x0300_0028, 2);
        for (standby, expected) in [
            (started(0x0300_0028, 2), None),
            (started(0x0400_0028, 2), None),
            (started(0x0200_0028, 2), Some("StandbyBehind")),
            (started(0x0300_0028, 1), Some("TimelineChanged")),
            (started(0x0300_0028, 3), Some("TimelineChanged")),
        ] {
            let refused = begins(&primary, &standby).err().map(|error| error.reason);
            assert_eq!(refused, expected, "{standby:?}");
        }
    }

    #[test]
    fn a_backup_of_a_standby_ends_on_its_timeline_and_before_the_primarys_end() {
        let stopped = |lsn, on: u32| Stopped {
            stop_lsn: Lsn::new(lsn),
            at: Timestamp::UNIX_EPOCH,
            label: format!(
                "START WAL LOCATION: 0/3000028 (file 0000000{on}0000000000000003)\n\
                 CHECKPOINT LOCATION: 0/3000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
                 START TIME: 2026-11-20 12:00:00 UTC\nLABEL: nightly\nSTART TIMELINE: {on}\n"
            ),
            tablespace_map: String::new(),
        };
        let ended = Lsn::new(0x0500_0000);
        let judge = |minimum, stopped: &Stopped| ends(timeline(2), minimum, stopped, ended);
        let good = stopped(0x0400_0000, 2);
        assert_eq!(judge(Some(timeline(2)), &good), Ok(()));
        for (what, minimum, stopped) in [
            ("on the next timeline", Some(timeline(3)), good.clone()),
            ("no standby any more", None, good),
            (
                "begun on another",
                Some(timeline(2)),
                stopped(0x0400_0000, 1),
            ),
            (
                "ahead of its primary",
                Some(timeline(2)),
                stopped(0x0500_0000, 2),
            ),
        ] {
            assert_eq!(judge(minimum, &stopped), Err(Loss::OtherTimeline), "{what}");
        }
    }
}
