use proptest::prelude::*;

use super::*;

const CEILING: Duration = Duration::from_secs(900);
const BOUND: Option<Duration> = Some(CEILING);
const STOP: Lsn = Lsn::new(0x0300_0138);

fn accepted(attempt: u32) -> Observed {
    Observed {
        attempt: Some(attempt),
        ..Observed::default()
    }
}

fn session(attempt: u32) -> Observed {
    Observed {
        ours: Ours {
            attempt: Some(attempt),
            ..Ours::default()
        },
        ..accepted(attempt)
    }
}

fn stopped(attempt: u32) -> Observed {
    Observed {
        cut: true,
        ours: Ours {
            attempt: Some(attempt),
            stopped: Some(STOP),
            ..Ours::default()
        },
        ..accepted(attempt)
    }
}

fn held(attempt: u32) -> Option<Held> {
    Some(Held {
        attempt,
        of_standby: false,
        state: HeldState::Alive,
        open_for: Duration::from_secs(3),
    })
}

#[test]
fn a_backup_goes_through_its_steps() {
    let dead = held(1).map(|held| Held {
        state: HeldState::Lost(Loss::Session),
        ..held
    });
    let ended = held(1).map(|held| Held {
        state: HeldState::Ended,
        open_for: CEILING,
        ..held
    });
    let long = held(1).map(|held| Held {
        open_for: CEILING,
        ..held
    });
    let cut = |observed: Observed| Observed {
        cut: true,
        ..observed
    };
    let ready = |observed: Observed| Observed {
        ready: true,
        ..observed
    };
    let ours = |observed: Observed, edit: fn(&mut Ours)| {
        let mut observed = observed;
        edit(&mut observed.ours);
        observed
    };
    for (name, observed, held, expected) in [
        ("not accepted", Observed::default(), None, Step::Wait),
        ("accepted", accepted(1), None, Step::Start(1)),
        (
            "an old attempt's status",
            Observed {
                ours: session(1).ours,
                ..accepted(2)
            },
            None,
            Step::Start(2),
        ),
        (
            "an old attempt's failure",
            ours(
                Observed {
                    ours: session(1).ours,
                    ..accepted(2)
                },
                |o| o.failed = true,
            ),
            None,
            Step::Start(2),
        ),
        (
            "an old attempt's session",
            accepted(2),
            held(1),
            Step::Release,
        ),
        ("in backup mode", session(1), held(1), Step::Hold),
        (
            "restarted in backup mode",
            session(1),
            None,
            Step::Fail(1, Void::Lost(Loss::Session)),
        ),
        (
            "restarted after the cut",
            cut(session(1)),
            None,
            Step::Fail(1, Void::Lost(Loss::Session)),
        ),
        (
            "connection broken",
            session(1),
            dead,
            Step::Fail(1, Void::Lost(Loss::Session)),
        ),
        (
            "connection broken after the cut",
            cut(session(1)),
            dead,
            Step::Fail(1, Void::Lost(Loss::Session)),
        ),
        ("cut", cut(session(1)), held(1), Step::Stop),
        (
            "at the ceiling",
            session(1),
            long,
            Step::Fail(1, Void::BackupModeTooLong),
        ),
        ("cut at the ceiling", cut(session(1)), long, Step::Stop),
        ("backup mode ended", cut(session(1)), ended, Step::Keep),
        (
            "void",
            ours(session(1), |o| o.failed = true),
            None,
            Step::Wait,
        ),
        (
            "void but held",
            ours(cut(session(1)), |o| o.failed = true),
            held(1),
            Step::Release,
        ),
        ("stopped", stopped(1), None, Step::ShipWal(STOP)),
        (
            "ready before WAL",
            ready(stopped(1)),
            None,
            Step::ShipWal(STOP),
        ),
        (
            "WAL before ready",
            ours(stopped(1), |o| o.wal_archived = true),
            None,
            Step::Wait,
        ),
        (
            "WAL and ready",
            ready(ours(stopped(1), |o| o.wal_archived = true)),
            None,
            Step::Catalogue,
        ),
        (
            "catalogued",
            ready(ours(stopped(1), |o| {
                o.wal_archived = true;
                o.catalogued = true;
            })),
            None,
            Step::Wait,
        ),
        (
            "over",
            Observed {
                over: true,
                ..cut(session(1))
            },
            held(1),
            Step::Release,
        ),
        (
            "over, nothing held",
            Observed {
                over: true,
                ..cut(session(1))
            },
            None,
            Step::Wait,
        ),
    ] {
        assert_eq!(plan(&observed, held, BOUND), expected, "{name}");
    }
}

#[test]
fn what_is_discarded_is_deleted_from_the_catalog_once() {
    let discarded = |ours: Ours| Observed {
        over: true,
        discarded: true,
        ours,
        ..accepted(1)
    };
    let began = session(1).ours;
    let gone = Ours {
        uncatalogued: true,
        ..began.clone()
    };
    for (name, observed, held, expected) in [
        (
            "it began",
            discarded(began.clone()),
            None,
            Step::Uncatalogue,
        ),
        (
            "in backup mode",
            discarded(began.clone()),
            held(1),
            Step::Release,
        ),
        ("it is gone", discarded(gone), None, Step::Wait),
        (
            "it never began",
            discarded(Ours::default()),
            None,
            Step::Wait,
        ),
        (
            "it goes with its namespace",
            Observed {
                discarded: false,
                ..discarded(began)
            },
            None,
            Step::Wait,
        ),
    ] {
        assert_eq!(plan(&observed, held, BOUND), expected, "{name}");
        assert_eq!(plan(&observed, held, None), expected, "{name}, ended");
    }
}

/// A controller that knows no standbys leaves out what it does not know, and cuts in any order.
#[test]
fn a_session_beside_a_standby_is_worth_nothing_to_another_attempt() {
    let of_standby = held(1).map(|held| Held {
        of_standby: true,
        ..held
    });
    let cut = |of_standby| Observed {
        of_standby,
        cut: true,
        ..session(1)
    };
    assert_eq!(plan(&cut(true), of_standby, BOUND), Step::Stop);
    let void = Step::Fail(1, Void::AttemptChanged);
    assert_eq!(plan(&cut(false), of_standby, BOUND), void);
    let ended = of_standby.map(|held| Held {
        state: HeldState::Ended,
        ..held
    });
    assert_eq!(plan(&cut(false), ended, BOUND), void);
}

/// Not the ceiling's fault, and not said to be.
#[test]
fn what_nobody_wants_any_more_ends_for_that_reason() {
    let void = Step::Fail(1, Void::NotWanted);
    assert_eq!(plan(&session(1), held(1), None), void);
    let cut = Observed {
        cut: true,
        ..session(1)
    };
    assert_eq!(plan(&cut, held(1), None), Step::Stop);
    let ended = held(1).map(|held| Held {
        state: HeldState::Ended,
        ..held
    });
    assert_eq!(plan(&cut, ended, None), void);
    assert_eq!(plan(&stopped(1), None, None), Step::ShipWal(STOP));
}

prop_compose! {
    fn any_observed()(
        over: bool,
        attempt in prop::option::weighted(0.9, 1u32..3),
        cut: bool,
        ready: bool,
        ours_attempt in prop::option::weighted(0.8, 1u32..3),
        failed in prop::bool::weighted(0.2),
        stopped in prop::option::of(Just(STOP)),
        wal_archived: bool,
        catalogued: bool,
    ) -> Observed {
        let ours = Ours { attempt: ours_attempt, failed, stopped, wal_archived, catalogued, uncatalogued: false };
        Observed { over, discarded: false, attempt, of_standby: false, cut, ready, ours }
    }
}

fn any_state() -> impl Strategy<Value = HeldState> {
    prop_oneof![
        Just(HeldState::Alive),
        any_loss().prop_map(HeldState::Lost),
        Just(HeldState::Ended)
    ]
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Session),
        Just(Loss::Primary),
        Just(Loss::Promoted),
        Just(Loss::OtherTimeline)
    ]
}

prop_compose! {
    fn any_held()(attempt in 1u32..3, state in any_state(), seconds in 0u64..1800) -> Held {
        Held { attempt, of_standby: false, state, open_for: Duration::from_secs(seconds) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// `pg_backup_stop` is sent in the live session of this very attempt, after its cut.
    #[test]
    fn stops_only_after_the_cut_of_its_own_attempt(
        observed in any_observed(),
        held in prop::option::of(any_held()),
    ) {
        if plan(&observed, held, BOUND) == Step::Stop {
            prop_assert!(observed.cut && !observed.over);
            prop_assert_eq!(observed.attempt, observed.ours.attempt);
            prop_assert!(!observed.ours.failed);
            prop_assert!(held.is_some_and(|h| h.state == HeldState::Alive && Some(h.attempt) == observed.attempt));
        }
    }

    /// A session that is not held alive in backup mode voids its attempt: nothing else follows.
    #[test]
    fn a_lost_session_is_void(observed in any_observed(), held in prop::option::of(any_held())) {
        let in_backup_mode = !observed.over
            && observed.attempt.is_some()
            && observed.attempt == observed.ours.attempt
            && !observed.ours.failed
            && observed.ours.stopped.is_none();
        let own = held.filter(|h| Some(h.attempt) == observed.attempt);
        let lost = match own.map(|held| held.state) {
            None => Some(Loss::Session),
            Some(HeldState::Lost(loss)) => Some(loss),
            Some(HeldState::Alive | HeldState::Ended) => None,
        };
        if let Some(loss) = lost.filter(|_| in_backup_mode && own == held) {
            let step = plan(&observed, held, BOUND);
            prop_assert!(matches!(step, Step::Fail(_, Void::Lost(told)) if told == loss), "{step:?}");
        }
    }

    /// What is over stays as it is, and nothing is held for it.
    #[test]
    fn over_is_a_fixpoint(observed in any_observed(), held in prop::option::of(any_held())) {
        let over = Observed { over: true, ..observed };
        let expected = if held.is_some() { Step::Release } else { Step::Wait };
        prop_assert_eq!(plan(&over, held, BOUND), expected);
    }

    /// Backup mode is never held past its ceiling.
    #[test]
    fn backup_mode_ends(observed in any_observed(), held in any_held()) {
        let held = Held { open_for: CEILING, ..held };
        prop_assert_ne!(plan(&observed, Some(held), BOUND), Step::Hold);
    }

    /// Nothing is catalogued before stop, WAL and ready of this attempt.
    #[test]
    fn catalogues_only_what_is_whole(observed in any_observed(), held in prop::option::of(any_held())) {
        if plan(&observed, held, BOUND) == Step::Catalogue {
            let ours = &observed.ours;
            prop_assert!(ours.stopped.is_some() && ours.wal_archived && observed.ready);
            prop_assert_eq!(observed.attempt, ours.attempt);
        }
    }
}

/// History costs no memory: what is decided is looked at again only when it is to go.
#[test]
fn what_is_decided_is_open_again_when_it_is_discarded() {
    let backup = |deleted: bool, types: &[&str]| -> PgBackup {
        let condition = |type_: &&str| {
            serde_json::json!({"type": type_, "status": "True", "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let conditions: Vec<_> = types.iter().map(condition).collect();
        let deleted = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "b", "deletionTimestamp": deleted},
            "spec": {"protection": "orders"},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    };
    assert!(is_open(&backup(false, &[])));
    assert!(!is_open(&backup(false, &["Completed"])));
    assert!(
        !is_open(&backup(true, &["Completed"])),
        "its namespace goes"
    );
    assert!(is_open(&backup(true, &["Completed", "Discarded"])));
}
