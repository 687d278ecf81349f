//! What a replay says while it goes on, and what is left of that at its end.

use highwater::api::RestoreProgress;
use serde_json::json;

use crate::{Restore, fixture};

/// Everything that was said, in its order, and the end.
async fn said(restore: &Restore) -> (Vec<RestoreProgress>, RestoreProgress) {
    let (mut seen, mut said) = (restore.progress.subscribe(), Vec::new());
    let run = restore.run();
    tokio::pin!(run);
    loop {
        tokio::select! {
            biased;
            result = &mut run => return (said, result.unwrap()),
            changed = seen.changed() => {
                changed.unwrap();
                said.push(seen.borrow_and_update().clone());
            }
        }
    }
}

#[tokio::test]
async fn a_replay_says_about_how_long_it_takes_and_which_time_it_has_reached() {
    let mut restore = Restore::new("slow", fixture().await.end, json!(null)).await;
    let program = restore.job.program.display();
    let slow = format!("sleep 0.6\nexec '{program}' \"$@\"");
    restore.job.program = restore.script("slow", &slow);
    let (said, result) = said(&restore).await;

    let is_over = |it: &&RestoreProgress| it.promoted_at.is_some();
    assert!(
        said.iter().any(|it| it.remaining_seconds.is_some()),
        "{said:?}"
    );
    assert!(
        said.iter()
            .filter(is_over)
            .all(|it| it.remaining_seconds.is_none()),
        "{said:?}"
    );
    assert!(said.iter().any(|it| is_over(&it)), "{said:?}");

    // While it goes on as far as the index knows, at the end as PostgreSQL does.
    let times = || said.iter().filter_map(|it| it.replayed_to.as_ref());
    assert!(times().is_sorted_by_key(|at| at.0), "{said:?}");
    let last = result.replayed_to.clone().unwrap();
    let on_the_way = said
        .iter()
        .find(|it| !is_over(it) && it.replayed_to.is_some());
    let on_the_way = on_the_way.and_then(|it| it.replayed_to.clone()).unwrap();
    assert!(on_the_way.0 < last.0, "{on_the_way:?} {last:?}");
    let (dropped, _) = fixture().await.before_drop;
    assert!(
        dropped < last.0 && last.0 <= fixture().await.quiet,
        "{last:?}"
    );

    let moments = [
        &result.replay_started_at,
        &result.promoted_at,
        &result.answered_at,
    ];
    let moments = moments.map(|at| at.as_ref().unwrap().0);
    assert!(moments.is_sorted(), "{moments:?}");
    assert_eq!(result.remaining_seconds, None);
    // A second run only says again what the first one said.
    assert_eq!(restore.run().await.unwrap(), result);
}

#[tokio::test]
async fn the_time_reached_is_not_beyond_the_target() {
    let (at, _) = fixture().await.before_drop;
    let target = json!({"time": at, "inclusive": true});
    let restore = Restore::new("reached", fixture().await.end, target).await;
    let (_, result) = said(&restore).await;
    let reached = result.replayed_to.unwrap().0;
    assert!(reached <= at, "{reached} {at}");
}

/// Killed when PostgreSQL had been promoted, before it was asked anything.
#[tokio::test]
async fn what_an_earlier_try_said_stays() {
    let restore = Restore::new("again", fixture().await.end, json!(null)).await;
    let mut seen = restore.progress.subscribe();
    let promoted = seen.wait_for(|it| it.promoted_at.is_some());
    tokio::select! {
        biased;
        promoted = promoted => drop(promoted.unwrap()),
        outcome = restore.run() => panic!("it ended first: {outcome:?}"),
    }
    crate::wait_until_gone(restore.pgdata()).await;
    let first = restore.progress.borrow().clone();
    let result = restore.run().await.unwrap();
    assert!(first.promoted_at.is_some());
    assert_eq!(
        (result.replay_started_at, result.promoted_at),
        (first.replay_started_at, first.promoted_at)
    );
    assert!(result.answered_at.is_some());
}
