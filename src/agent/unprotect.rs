//! The end of a protection: its slots go, so that no WAL is kept for nobody.

use std::time::Duration;

use super::{primary::Login, report::Reporter};
use crate::{
    api::{
        Member,
        conditions::{CONNECTED, SLOTS_DROPPED, Status, WAL_ARCHIVING},
    },
    controller::context::Chain,
    postgres::slot,
};

/// How long one member may take.
const EACH: Duration = Duration::from_secs(15);

/// Members where the slot is not seen gone, each with the reason.
async fn drop_slots(login: &Login, members: &[Member], name: &str) -> Vec<String> {
    let drops = members.iter().map(|member| async move {
        let dropped = async {
            let client = login
                .connect(&member.address)
                .await
                .map_err(|error| Chain(&error).to_string())?;
            slot::drop(&client, name)
                .await
                .map_err(|error| Chain(&error).to_string())
        };
        match tokio::time::timeout(EACH, dropped).await {
            Ok(Ok(existed)) => {
                tracing::info!(
                    pod = member.pod,
                    slot = name,
                    existed,
                    "replication slot is gone"
                );
                None
            }
            Ok(Err(error)) => Some(format!("{}: {error}", member.pod)),
            Err(_) => Some(format!("{}: no answer", member.pod)),
        }
    });
    let left = futures::future::join_all(drops).await;
    left.into_iter().flatten().collect()
}

/// Standbys that had the slot and do not run: it is in their volumes, and keeps WAL when they start again.
fn away(standbys: &[String], members: &[Member]) -> Vec<String> {
    let away = |pod: &&String| !members.iter().any(|member| member.pod == **pod);
    let away = standbys.iter().filter(away);
    away.map(|pod| format!("{pod}: it does not run")).collect()
}

/// Drops the slot on every member, and says so. `true` when it is gone everywhere, also on a standby that was scaled away
/// with it.
pub async fn run(login: &Login, members: &[Member], name: &str, reporter: &Reporter) -> bool {
    let (reason, message) = ("Unprotected", "the database is not protected any more");
    reporter.condition(WAL_ARCHIVING, Status::False, reason, message);
    reporter.condition(CONNECTED, Status::False, reason, message);
    let mut left = drop_slots(login, members, name).await;
    let wal = reporter.read().wal;
    left.extend(away(
        &wal.map_or_else(Vec::new, |wal| wal.standby_slots),
        members,
    ));
    if members.is_empty() {
        let message = format!(
            "no pod runs: replication slot {name} may still be in the database's volume and would keep WAL when it starts again; \
             then run SELECT pg_drop_replication_slot('{name}')"
        );
        reporter.condition(SLOTS_DROPPED, Status::False, "NoMembers", message);
        return false;
    }
    if left.is_empty() {
        let message = format!("replication slot {name} is gone on every pod that runs");
        reporter.condition(SLOTS_DROPPED, Status::True, "Dropped", message);
        return true;
    }
    let message = format!(
        "replication slot {name} is still there ({}); it keeps WAL: run SELECT pg_drop_replication_slot('{name}') there",
        left.join("; ")
    );
    reporter.condition(SLOTS_DROPPED, Status::False, "DropFailed", message);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_does_not_run_may_have_the_slot_still() {
        let members = [Member {
            pod: "orders-0".into(),
            uid: "u".into(),
            address: "10.0.0.1".into(),
        }];
        let standbys = ["orders-0".to_owned(), "orders-1".to_owned()];
        assert_eq!(away(&standbys, &members), ["orders-1: it does not run"]);
    }
}
