//! Targets as the planner gives them to PostgreSQL, from what the archive really holds.

use highwater::{
    api::{RestorePlan, StopAt},
    archive::{
        Request,
        plan::{plan, to_look_up},
    },
    recovery::job::JobError,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

use crate::{Restore, cluster::RESTORE_POINT, fixture};

async fn planned(target: serde_json::Value) -> RestorePlan {
    let lineage = fixture().await.lineage();
    let contents = lineage.contents().await.unwrap();
    let mut request = Request {
        backup: None,
        target: Some(serde_json::from_value(target).unwrap()),
        archive: "main".to_owned(),
        archive_name: "shop-orders".to_owned(),
        can_decrypt: false,
        ended: Vec::new(),
    };
    let target = request.target.as_ref();
    if let Some(xid) = target.and_then(|target| target.xid) {
        let names = to_look_up(&request, &contents).unwrap();
        let ended = lineage.ended(&names, xid.in_wal(), &contents).await;
        request.ended = ended.unwrap();
    }
    plan(&request, &contents).unwrap()
}

#[tokio::test]
async fn a_target_after_the_last_commit_is_the_end() {
    let fixture = fixture().await;
    let mut plan = planned(json!({"time": fixture.quiet})).await;
    assert_eq!((&plan.stop_at, plan.wal_to), (&None, fixture.end));
    let restore = Restore::planned("quiet", plan.clone()).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);

    // PostgreSQL itself calls it an error that nothing was committed after the target.
    let later = fixture.quiet + SignedDuration::from_hours(1);
    plan.stop_at = Some(StopAt {
        time: Some(MicroTime(later)),
        lsn: None,
        xid: None,
        inclusive: true,
    });
    let naive = Restore::planned("naive", plan).await;
    let error = naive.run().await.unwrap_err();
    assert!(matches!(error, JobError::Exited { .. }), "{error}");
    let said = "recovery ended before configured recovery target was reached";
    assert!(error.to_string().contains(said), "{error}");
}

#[tokio::test]
async fn a_time_is_planned_and_stops_between_two_commits() {
    let (time, lsn) = fixture().await.before_drop;
    let plan = planned(json!({"time": time})).await;
    // Up to the end of the segment that holds the first commit after it.
    assert!(lsn < plan.wal_to && plan.wal_to < fixture().await.end);
    let restore = Restore::planned("planned-time", plan).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await, (4000, Some(0), Some(3999)));
}

#[tokio::test]
async fn an_lsn_target_stops_at_its_record() {
    let lsn = fixture().await.commit;
    for (inclusive, rows) in [(true, 4000), (false, 3900)] {
        let plan = planned(json!({"lsn": lsn, "inclusive": inclusive})).await;
        assert_eq!(plan.stop_at.as_ref().unwrap().lsn, Some(lsn));
        assert!(lsn < plan.wal_to && plan.wal_to < fixture().await.end);
        let restore = Restore::planned(&format!("lsn-{inclusive}"), plan).await;
        restore.run().await.unwrap();
        assert_eq!(restore.rows().await.0, rows, "{inclusive}");
    }
}

#[tokio::test]
async fn a_restore_point_is_found_by_its_name() {
    let plan = planned(json!({"name": RESTORE_POINT})).await;
    assert!(plan.summary.contains(RESTORE_POINT), "{}", plan.summary);
    assert!(plan.wal_to < fixture().await.end);
    let restore = Restore::planned("name", plan).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await, (4000, Some(0), Some(3999)));
}

#[tokio::test]
async fn a_transaction_is_found_by_its_id() {
    let fixture = fixture().await;
    for (inclusive, rows) in [(true, 4000), (false, 3900)] {
        let plan = planned(json!({"xid": fixture.xid, "inclusive": inclusive})).await;
        let stop = plan.stop_at.as_ref().unwrap();
        assert_eq!((stop.xid, stop.lsn.is_some()), (None, true));
        if !inclusive {
            assert_eq!(stop.lsn, Some(fixture.commit));
        }
        let restore = Restore::planned(&format!("xid-{inclusive}"), plan).await;
        restore.run().await.unwrap();
        assert_eq!(restore.rows().await.0, rows, "{inclusive}");
    }
}

/// Why a plan to where a timeline was left, behind which nothing is served, has no stop.
#[tokio::test]
async fn at_the_end_of_what_is_served_no_lsn_is_stopped_at() {
    let left = fixture().await.before_drop.1;
    let naive = Restore::new("left-naive", left, json!({"lsn": left, "inclusive": true})).await;
    let error = naive.run().await.unwrap_err().to_string();
    let said = "recovery ended before configured recovery target was reached";
    assert!(error.contains(said), "{error}");
    let restore = Restore::new("left", left, json!(null)).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 4000);
}

/// What was committed when the backup ended, and nothing of what came after.
#[tokio::test]
async fn immediate_is_what_the_backup_alone_holds() {
    let plan = planned(json!({"immediate": {}})).await;
    let restore = Restore::planned("immediate", plan).await;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await, (3000, Some(0), Some(2999)));
}
