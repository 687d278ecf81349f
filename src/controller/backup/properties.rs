//! The invariants of `docs/design.md` (section 4: 1, 2, 3, 10, 12, 15) as properties of the decisions, over any order of
//! events; and for each the mistake that must break it, so that the checks are known to see.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::model::{Action, Answer, GroupEvent, Mistake, World};

fn action() -> impl Strategy<Value = Action> {
    let snapshot = 0..4u8;
    prop_oneof![
        16 => Just(Action::Pass(None)),
        3 => (0..5u8).prop_map(|n| Action::Pass(Some(n))),
        8 => (1..8u8).prop_map(Action::Watch),
        8 => Just(Action::PassTold),
        2 => Just(Action::Read),
        2 => Just(Action::ActLate),
        7 => Just(Action::Start),
        1 => Just(Action::Break),
        3 => Just(Action::Notice),
        6 => Just(Action::Stop),
        5 => Just(Action::Archive),
        5 => Just(Action::Catalogue),
        1 => Just(Action::CatalogueUntold),
        3 => Just(Action::Uncatalogue),
        12 => snapshot.clone().prop_map(Action::Driver),
        2 => snapshot.clone().prop_map(Action::Trouble),
        1 => snapshot.prop_map(Action::Delete),
        3 => Just(Action::Collect),
        3 => (1..120u16).prop_map(Action::Tick),
        1 => Just(Action::Tick(1000)),
        1 => any::<bool>().prop_map(Action::Remove),
    ]
}

/// The same, and what may happen about groups.
fn group_action() -> impl Strategy<Value = Action> {
    let answer = prop_oneof![
        Just(Answer::Missing),
        Just(Answer::More),
        Just(Answer::Fails)
    ];
    prop_oneof![
        80 => action(),
        32 => (4..64u8).prop_map(Action::Driver),
        2 => (0..4u8).prop_map(GroupEvent::Label).prop_map(Action::Group),
        2 => answer.prop_map(GroupEvent::Answer).prop_map(Action::Group),
        1 => Just(Action::Group(GroupEvent::Delete)),
    ]
}

/// What was reached, so that a generator that never gets there is noticed.
#[derive(Debug, Default)]
struct Reached {
    completed: usize,
    failed: usize,
    later_attempts: usize,
    removed: usize,
    by_group: usize,
}

fn run(mistake: Mistake, cases: u32, reached: &std::cell::RefCell<Reached>) -> Result<(), String> {
    run_in(World::new, mistake, cases, reached)
}

fn run_in(
    world: fn(Mistake) -> World,
    mistake: Mistake,
    cases: u32,
    reached: &std::cell::RefCell<Reached>,
) -> Result<(), String> {
    run_with(action(), world, mistake, cases, reached)
}

fn run_by_group(
    mistake: Mistake,
    cases: u32,
    reached: &std::cell::RefCell<Reached>,
) -> Result<(), String> {
    run_with(group_action(), World::of_group, mistake, cases, reached)
}

fn run_with(
    action: impl Strategy<Value = Action>,
    world: fn(Mistake) -> World,
    mistake: Mistake,
    cases: u32,
    reached: &std::cell::RefCell<Reached>,
) -> Result<(), String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let outcome = runner.run(&vec(action, 20..140), |actions| {
        let mut world = world(mistake);
        for action in &actions {
            world.step(*action);
        }
        world.settle();
        let mut reached = reached.borrow_mut();
        reached.completed += usize::from(world.completed());
        reached.failed += usize::from(world.backup.is_some() && !world.completed());
        reached.later_attempts += usize::from(world.completed() && world.number() > Some(1));
        reached.removed += usize::from(world.backup.is_none());
        reached.by_group += usize::from(world.completed() && world.is_by_group());
        match world.violation {
            None => Ok(()),
            Some(what) => Err(TestCaseError::fail(what)),
        }
    });
    outcome.map_err(|error| error.to_string())
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    let reached = std::cell::RefCell::new(Reached::default());
    let outcome = run(Mistake::No, 1500, &reached);
    let reached = reached.into_inner();
    assert_eq!(outcome, Ok(()), "{reached:?}");
    let Reached {
        completed,
        failed,
        later_attempts,
        removed,
        by_group: _,
    } = reached;
    assert!(
        completed > 200 && failed > 5 && later_attempts > 50 && removed > 100,
        "{reached:?}"
    );
}

/// Of a standby the volume with pg_control is cut last, whatever dies or is late, and all else holds as well.
#[test]
fn no_order_of_events_cuts_pg_control_of_a_standby_before_the_others() {
    let reached = std::cell::RefCell::new(Reached::default());
    let outcome = run_in(World::of_standby, Mistake::No, 1500, &reached);
    let reached = reached.into_inner();
    assert_eq!(outcome, Ok(()), "{reached:?}");
    assert!(
        reached.completed > 200 && reached.later_attempts > 50,
        "{reached:?}"
    );
    let reached = std::cell::RefCell::new(Reached::default());
    let outcome = run_in(World::of_standby, Mistake::AllAtOnce, 1500, &reached);
    let said = outcome.unwrap_err();
    let seen = "pg_control of a standby was not the last to be cut";
    assert!(said.contains(seen), "{said}");
}

/// By a group that any volume may be missing of, or too many be in, whose members come in any order, and that may fail.
#[test]
fn no_order_of_events_breaks_a_promise_of_a_group() {
    let reached = std::cell::RefCell::new(Reached::default());
    let outcome = run_by_group(Mistake::No, 700, &reached);
    let reached = reached.into_inner();
    assert_eq!(outcome, Ok(()), "{reached:?}");
    let Reached {
        completed,
        failed: _,
        later_attempts,
        removed,
        by_group,
    } = reached;
    assert!(
        completed > 200 && by_group > 50 && later_attempts > 100 && removed > 100,
        "{reached:?}"
    );
}

#[test]
fn every_planted_mistake_is_seen() {
    for (mistake, seen) in [
        (
            Mistake::AnySession,
            "a snapshot was made before its attempt's start returned",
        ),
        (Mistake::SameNumber, "a void attempt came back"),
        (
            Mistake::PartialSet,
            "a partial set was taken for a whole one",
        ),
        (Mistake::SkipRetain, "completed before retained"),
        (
            Mistake::IgnoreScope,
            "a namespace that went took the backup with it",
        ),
        (Mistake::IgnoreLoss, "it does not come to an end"),
        (Mistake::NoJanitor, "left snapshots behind"),
        (Mistake::LabelsOnly, "left snapshots behind"),
        (
            Mistake::IgnoreCatalog,
            "a snapshot went before the entry in the catalog",
        ),
    ] {
        is_seen(run, mistake, seen);
    }
}

#[test]
fn every_planted_mistake_about_a_group_is_seen() {
    for (mistake, seen) in [
        (
            Mistake::AnyGroup,
            "backup mode ended with a group of other volumes",
        ),
        (Mistake::GroupAgain, "a second attempt was by a group"),
        (
            Mistake::SkipRetainGroup,
            "completed before its group was retained",
        ),
        (Mistake::NoGroupJanitor, "left snapshots behind"),
        (Mistake::Untold, "left snapshots behind"),
        (Mistake::LabelsStay, "left its label on a claim"),
    ] {
        is_seen(run_by_group, mistake, seen);
    }
}

type Run = fn(Mistake, u32, &std::cell::RefCell<Reached>) -> Result<(), String>;

fn is_seen(run: Run, mistake: Mistake, seen: &str) {
    let reached = std::cell::RefCell::new(Reached::default());
    let outcome = run(mistake, 3000, &reached);
    let said = outcome
        .err()
        .unwrap_or_else(|| format!("nothing ({reached:?})"));
    println!(
        "{mistake:?}: {said}",
        said = said.lines().next().unwrap_or_default()
    );
    assert!(said.contains(seen), "{mistake:?}: {said}");
}

#[test]
fn a_snapshot_that_went_before_it_was_written_down_goes_with_its_backup() {
    for (mistake, expected) in [
        (Mistake::No, None),
        (
            Mistake::LabelsOnly,
            Some("a deleted backup left snapshots behind"),
        ),
    ] {
        let mut world = World::new(mistake);
        let accepted = [Action::Pass(None), Action::Pass(None), Action::Start];
        let made_and_died = Action::Pass(Some(1));
        let deleted = [Action::Driver(0), Action::Delete(0), Action::Collect];
        for action in accepted.into_iter().chain([made_and_died]).chain(deleted) {
            world.step(action);
        }
        world.settle();
        assert!(
            world.completed() && world.number() == Some(1),
            "{mistake:?}"
        );
        world.step(Action::Remove(false));
        world.settle();
        assert!(world.backup.is_none(), "{mistake:?}");
        assert_eq!(world.violation.as_deref(), expected, "{mistake:?}");
    }
}

#[test]
fn a_snapshot_that_was_made_anew_is_not_taken_for_the_one_that_was_cut() {
    for (mistake, attempt, expected) in [
        (Mistake::No, 2, None),
        (
            Mistake::AnyUid,
            1,
            Some("completed with a cut outside its session"),
        ),
    ] {
        let mut world = World::new(mistake);
        let accepted = [Action::Pass(None), Action::Pass(None), Action::Start];
        // A controller that is held up while another one does the work.
        let cut = [
            [Action::Read, Action::Pass(None)],
            [Action::Driver(0), Action::Driver(1)],
            [Action::Driver(0), Action::Driver(1)],
            [Action::Pass(None), Action::Pass(None)],
        ];
        let replaced = [
            Action::Stop,
            Action::Delete(0),
            Action::Collect,
            Action::ActLate,
        ];
        let cut = cut.into_iter().flatten();
        for action in accepted.into_iter().chain(cut).chain(replaced) {
            world.step(action);
        }
        world.settle();
        assert_eq!(world.violation.as_deref(), expected, "{mistake:?}");
        assert!(world.completed(), "{mistake:?}");
        assert_eq!(world.number(), Some(attempt), "{mistake:?}");
    }
}

/// The watch of snapshots is late: what it does not tell of yet is no loss, and its attempt goes on.
#[test]
fn a_watch_that_is_late_costs_no_attempt() {
    for (mistake, attempt) in [(Mistake::No, 1), (Mistake::TrustWatches, 2)] {
        let mut world = World::new(mistake);
        let made = [
            Action::Pass(None),
            Action::Pass(None),
            Action::Start,
            Action::Pass(None),
        ];
        let told_of_the_backup_alone = [Action::Watch(1), Action::PassTold];
        for action in made.into_iter().chain(told_of_the_backup_alone) {
            world.step(action);
        }
        world.settle();
        assert!(
            world.completed() && world.violation.is_none(),
            "{mistake:?}"
        );
        assert_eq!(world.number(), Some(attempt), "{mistake:?}");
    }
}
