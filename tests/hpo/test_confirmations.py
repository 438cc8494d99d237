"""Stopped trials that are finished at the end: which, by whom, once, within the budget."""

from __future__ import annotations

import optuna
import pytest
from desk import Desk, desks, identity_of, spec_of

from criteria_cli.hpo import status
from criteria_cli.hpo.claims import Claim, Nothing
from criteria_cli.hpo.figures import history
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.optuna_store import joined
from criteria_cli.hpo.prepare import Budget, prepare
from criteria_cli.hpo.selection import select, study_record
from criteria_cli.hpo.tracking import tracked

FOLDS = 3
SPEC = spec_of(
    validation={"folds": FOLDS},
    pruner={"type": "racing", "startup_trials": 3},
    budget={"trials": 6, "confirm": 2},
)
WHOLE = (0.50, 0.56, 0.53)
STOPPED = (0.30, 0.50, 0.10)
"""Of the first fold; the second of them is the most promising."""


def run_budget(desk: Desk, stopped: tuple[float, ...] = STOPPED) -> None:
    """Three whole trials with scores that differ from fold to fold, then stopped ones."""
    for level in WHOLE:
        lease = desk.take().lease
        train(desk, lease, level)
        desk.tell(lease, *scores(level))
    for level in stopped:
        lease = desk.take().lease
        desk.report(lease, 1, level, epoch=1)
        desk.report(lease, 1, level, epoch=2)
        desk.report(lease, 1, level)
        desk.tell(lease, level, outcome="pruned")


def scores(level: float) -> list[float]:
    return [level + shift for shift in (0.0, 0.02, -0.01)]


def train(desk: Desk, lease: Lease, level: float, first: int = 1) -> None:
    for fold in range(first, FOLDS + 1):
        for epoch in (1, 2):
            desk.report(lease, fold, scores(level)[fold - 1], epoch)
        desk.report(lease, fold, scores(level)[fold - 1])


def finish(desk: Desk, claim: Claim, level: float) -> None:
    train(desk, claim.lease, level, first=len(claim.folds) + 1)
    desk.tell(claim.lease, *scores(level))


def test_a_stopped_trial_becomes_complete_within_the_budget(storage: str) -> None:
    with desks(storage, 1, spec=SPEC) as (a,):
        run_budget(a)
        before = status.read_study(storage, "s")
        assert (before.trials.complete, before.trials.pruned, before.state) == (3, 3, "running")
        claim = a.take()
        assert claim.source == claim.home == 4, "the most promising of the stopped"
        assert claim.lease.trial == 6
        assert [fold.score for fold in claim.folds] == [0.50], "its fold is not trained again"
        assert a.take().lease.trial == 6, "an answer that was lost is found again"
        finish(a, a.take(), 0.60)
        after = status.read_study(storage, "s")
        assert (after.trials.complete, after.trials.pruned) == (4, 2)
        assert after.trials.finished == after.target == 6
        assert after.best is not None
        assert (after.best.trial, after.best.value) == (6, pytest.approx(sum(scores(0.6)) / 3))
        assert len(after.best.fold_scores) == FOLDS
        confirm = after.pruning.confirm
        assert (confirm.wanted, confirm.complete, confirm.running) == (2, 1, 0)
        assert after.pruning.folds_run == 4 * FOLDS + 2
        finish(a, a.take(), 0.30)
        assert a.claim() == Nothing("finished")
        done = status.read_study(storage, "s")
        assert (done.state, done.trials.complete, done.trials.pruned) == ("finished", 5, 1)


def test_optuna_sees_a_complete_trial_with_the_same_parameters(storage: str) -> None:
    with desks(storage, 1, spec=SPEC) as (a,):
        run_budget(a)
        finish(a, a.take(), 0.60)
        with a.engine.begin() as connection, joined(a.engine, connection) as joint:
            study = optuna.load_study(study_name="s", storage=joint)
            source, confirmed = study.trials[4], study.best_trial
    assert confirmed.number == 6
    assert confirmed.params == source.params
    assert confirmed.distributions == source.distributions
    assert confirmed.user_attrs["confirms"] == 4
    assert source.state.name == "PRUNED"
    assert len(confirmed.intermediate_values) == FOLDS * 2


def test_a_report_counts_a_confirmed_trial_once_as_status_does(storage: str) -> None:
    with desks(storage, 2, spec=SPEC) as (a, b):
        run_budget(a)
        finish(a, a.take(), 0.60)
        under_way = b.take()
        assert (under_way.lease.trial, under_way.source) == (7, 3)
        train(b, under_way.lease, 0.40, first=2)
        found, record = status.read_study(storage, "s"), study_record(storage, "s")
        states = [trial.state for trial in tracked(record)]
        assert states.count("complete") == found.trials.complete == 4
        assert states.count("pruned") == found.trials.pruned == 2
        drawn = {trace.name: list(trace.x) for trace in history(record).data}
        assert (drawn["pruned"], drawn["complete"]) == ([3, 5], [0, 1, 2, 6])
        # a fold that a confirmation was born with is told once, what it trained itself too
        assert [(fold.trial, fold.fold) for fold in record.folds if fold.trial > 2] == [
            (3, 1), (5, 1), (6, 1), (6, 2), (6, 3), (7, 2), (7, 3),
        ]  # fmt: skip
        assert {(epoch.trial, epoch.fold) for epoch in record.epochs} == {
            (fold.trial, fold.fold) for fold in record.folds
        }
        assert select(storage, "s", 4).score == pytest.approx(0.50), "it can still be named"


def test_several_workers_share_the_confirmations(storage: str) -> None:
    with desks(storage, 3, spec=SPEC) as (a, b, c):
        run_budget(a)
        first, second = a.take(), b.take()
        assert {first.source, second.source} == {3, 4}
        assert c.claim() == Nothing("wait"), "others may leave theirs behind"
        finish(a, first, 0.6)
        finish(b, second, 0.4)
        assert [desk.claim() for desk in (a, b, c)] == [Nothing("finished")] * 3


def test_a_dead_workers_confirmation_is_taken_up(storage: str) -> None:
    with desks(storage, 2, spec=SPEC, lease_s=60.0) as (a, b):
        run_budget(a)
        a.lease_s = -1.0
        lost = a.take()
        a.report(lost.lease, 2, 0.5)
        taken = b.take()
        assert taken.lease.trial == lost.lease.trial
        assert (taken.source, taken.attempt) == (lost.source, 2)
        assert [fold.fold for fold in taken.folds] == [1, 2]
        assert taken.params == lost.params


def test_a_claim_that_fails_in_the_middle_confirms_nothing(storage: str) -> None:
    with desks(storage, 1, spec=SPEC) as (a,):
        run_budget(a)
        with pytest.raises(KeyError):
            a.do(lambda c, o: (a.claimer.claim(c, o), {}["x"]))
        assert len(a.states()) == 6
        assert a.rows("select trial from criteria_confirmations") == []
        assert a.take().lease.trial == 6


def test_a_confirmation_that_fails_leaves_the_trial_stopped(storage: str) -> None:
    with desks(storage, 1, spec=SPEC) as (a,):
        run_budget(a)
        a.tell(a.take().lease, outcome="failed", cause="nan_loss", message="no number")
        found = status.read_study(storage, "s")
        assert (found.trials.complete, found.trials.pruned, found.trials.failed) == (3, 3, 1)
        assert found.pruning.confirm.failed == 1
        assert a.take().source == 3, "the next one, not the same again"


def test_a_larger_budget_afterwards_is_met_exactly(storage: str) -> None:
    with desks(storage, 2, spec=SPEC) as (a, b):
        run_budget(a)
        finish(a, a.take(), 0.6)
        under_way = a.take()
        a.rows("update criteria_studies set target = 7 where name = 's' returning name")
        new = b.take()
        assert new.source is None, "the confirmation under way does not count"
        train(b, new.lease, 0.5)
        b.tell(new.lease, *scores(0.5))
        finish(a, under_way, 0.3)
        assert a.claim() == Nothing("finished")
        found = status.read_study(storage, "s")
        assert (found.trials.complete, found.trials.pruned, found.target) == (6, 1, 7)


def test_without_three_complete_trials_the_longest_is_finished(storage: str) -> None:
    spec = spec_of(
        validation={"folds": FOLDS},
        pruner={"type": "hyperband", "max_resource": FOLDS, "startup_trials": 0},
        budget={"trials": 3, "confirm": 1},
    )
    with desks(storage, 1, spec=spec) as (a,):
        for given in ((0.9,), (0.2, 0.3), (0.4, 0.3)):
            lease = a.take().lease
            for fold, score in enumerate(given, start=1):
                a.report(lease, fold, score)
            a.tell(lease, *given, outcome="pruned")
        claim = a.take()
        assert (claim.source, [fold.score for fold in claim.folds]) == (2, [0.4, 0.3])


def test_there_may_be_fewer_stopped_trials_than_wanted(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(budget={"trials": 2, "confirm": 5})) as (a,):
        a.whole_trial()
        a.whole_trial()
        assert a.claim() == Nothing("finished")
        assert status.read_study(storage, "s").state == "finished"


def test_how_many_is_kept_by_the_study_until_it_is_asked_for(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(budget={"trials": 2, "confirm": 1})) as (a,):
        identity = identity_of(a.spec)

        def kept() -> int:
            return int(a.rows("select confirm from criteria_studies")[0][0])

        prepare(a.url, identity)
        assert kept() == 1
        prepare(a.url, identity, budget=Budget(confirm=4))
        assert kept() == 4
        prepare(a.url, identity, budget=Budget(trials=3))
        assert kept() == 4
