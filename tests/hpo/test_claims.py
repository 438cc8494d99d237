"""Which trial a worker takes: new ones within the budget, and those left behind."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import sqlalchemy as sa
from desk import Desk, desks, identity_of, spec_of
from postgres_server import PostgresServer
from processes import wait_until

from criteria_cli.errors import StoreError
from criteria_cli.hpo import leases, rows, status
from criteria_cli.hpo.budget import is_over
from criteria_cli.hpo.claims import LOST_IN_A_ROW, Nothing, finish_orphans
from criteria_cli.hpo.leases import LeaseLost
from criteria_cli.hpo.optuna_store import joined
from criteria_cli.hpo.prepare import Budget, prepare
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.tables import folds


def test_no_more_trials_are_given_out_than_the_budget_has(storage: str) -> None:
    with desks(storage, 3, spec=spec_of(budget={"trials": 2})) as (a, b, c):
        first, second = a.take(), b.take()
        assert first.lease.trial != second.lease.trial
        assert c.claim() == Nothing("wait")
        a.tell(first.lease, 0.5, 0.5)
        assert a.claim() == Nothing("wait")
        b.tell(second.lease, outcome="failed", cause="nan_loss", message="no number")
        replaced = c.take()
        c.tell(replaced.lease, 0.4, 0.4)
        assert c.claim() == Nothing("finished")
        assert a.states() == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_trial_given_back_is_the_next_one_taken(storage: str) -> None:
    with desks(storage, 2) as (a, b):
        claim = a.take()
        a.report(claim.lease, 1, 0.7)
        a.tell(claim.lease, 0.7, outcome="yielded")
        again = b.take()
        assert again.lease.trial == claim.lease.trial
        assert again.params == claim.params
        assert again.lease.token == claim.lease.token + 1
        assert again.adopted_from == a.name
        assert [fold.score for fold in again.folds] == [0.7]


def test_a_dead_workers_trial_is_adopted_under_its_own_number(storage: str) -> None:
    spec = spec_of(
        validation={"folds": 5},
        pruner={"type": "hyperband", "max_resource": 5, "startup_trials": 0},
    )
    with desks(storage, 2, spec=spec, lease_s=-1.0) as (a, b):
        claim = a.take()
        a.report(claim.lease, 1, 0.7)
        before = _rungs(a, claim.lease.trial_id)
        adopted = b.take()
        assert adopted.lease.trial == claim.lease.trial
        assert adopted.lease.trial_id == claim.lease.trial_id
        assert adopted.params == claim.params
        assert _rungs(b, adopted.lease.trial_id) == before  # the bracket's marks stay its own
        b.report(adopted.lease, 2, 0.7)
        b.tell(adopted.lease, 0.7, 0.7, outcome="pruned")
        assert b.states() == ["PRUNED"]


def _rungs(desk: Desk, trial_id: int) -> list[str]:
    rows = desk.rows(
        "select key from trial_system_attributes where trial_id = :id order by key", id=trial_id
    )
    return [row[0] for row in rows]


def lower(desk: Desk, trials: int) -> None:
    """Change the budget, as `--trials` does."""
    prepare(desk.url, identity_of(desk.spec), budget=Budget(trials))


def test_a_trial_given_back_waits_where_the_budget_was_lowered(storage: str) -> None:
    with desks(storage, 2) as (a, b):
        a.whole_trial(0.5)
        claim = a.take()
        a.report(claim.lease, 1, 0.7)
        a.tell(claim.lease, 0.7, outcome="yielded")
        lower(a, 1)
        assert b.claim() == Nothing("finished")
        assert b.states() == ["COMPLETE", "RUNNING"]
        found = status.read_study(storage, "s")
        assert (found.state, found.trials.finished, found.trials.waiting) == ("finished", 1, 1)
        assert [trouble.code for trouble in found.troubles] == ["over_budget"]
        assert found.troubles[0].hint.endswith("--trials 2")
        assert found.healthy
        lower(a, 2)
        again = b.take()
        assert (again.lease.trial, [fold.score for fold in again.folds]) == (1, [0.7])
        b.tell(again.lease, 0.7, 0.7)
        assert b.claim() == Nothing("finished")
        assert status.read_study(storage, "s").troubles == ()


def test_of_trials_given_back_as_many_go_on_as_a_lowered_budget_has(storage: str) -> None:
    with desks(storage, 3) as (a, b, c):
        held = [a.take(), b.take(), c.take()]
        a.tell(held[0].lease, 0.7, outcome="yielded")
        b.tell(held[1].lease, 0.7, outcome="yielded")
        lower(a, 2)
        assert a.take().lease.trial == 0  # the third still runs
        assert b.claim() == Nothing("wait")
        c.tell(held[2].lease, outcome="failed", cause="nan_loss", message="no number")
        assert b.take().lease.trial == 1
        assert c.claim() == Nothing("wait")


def test_no_more_trials_finish_than_a_lowered_budget_has(storage: str) -> None:
    with desks(storage, 3) as (a, b, c):
        leases = [desk.take().lease for desk in (a, b, c)]
        lower(a, 2)
        over = [a.do(lambda c, _, lease=lease: is_over(c, lease)) for lease in leases]  # type: ignore[misc]
        assert over == [False, False, True]
        for desk, lease in zip((a, c, b), (leases[0], leases[2], leases[1]), strict=True):
            desk.report(lease, 1, 0.5)
        told = [a.tell(leases[0], 0.5, 0.5), c.tell(leases[2], 0.5, 0.5, outcome="pruned")]
        assert told == ["complete", "pruned"]  # it was quicker than the one begun before it
        assert b.tell(leases[1], 0.4, 0.6) == "yielded"
        assert b.states() == ["COMPLETE", "RUNNING", "PRUNED"]
        assert b.claim() == Nothing("finished")
        lower(a, 3)
        again = b.take()
        assert [fold.score for fold in again.folds] == [0.4, 0.6]
        assert b.tell(again.lease, 0.4, 0.6) == "complete"


def test_trials_that_finish_in_the_same_instant_keep_to_a_lowered_budget(storage: str) -> None:
    with desks(storage, 4) as workers:
        held = [desk.take().lease for desk in workers]
        lower(workers[0], 1)
        with ThreadPoolExecutor(4) as pool:
            told = list(
                pool.map(
                    lambda pair: pair[0].tell(pair[1], 0.5, 0.5), zip(workers, held, strict=True)
                )
            )
        assert sorted(told) == ["complete", "yielded", "yielded", "yielded"]


@pytest.mark.parametrize(
    "report",
    ["zzz", "[]", '{"fold": 1}', '{"fold": 1, "score": "x", "best_epoch": 1, "epochs": 1}'],
)
def test_a_trial_whose_folds_are_damaged_is_left_where_it_is(storage: str, report: str) -> None:
    with desks(storage, 2) as (a, b):
        claim = a.take()
        a.report(claim.lease, 1, 0.7)
        a.tell(claim.lease, 0.7, outcome="yielded")
        a.do(lambda c, _: c.execute(sa.update(folds).values(report=report)))
        with pytest.raises(StoreError, match="of study `s` is damaged"):
            b.claim()
        assert a.rows("select worker, token from criteria_leases") == [(None, 1)]


@pytest.mark.fault(14)
def test_of_several_rivals_one_adopts(storage: str) -> None:
    with desks(storage, 4, spec=spec_of(budget={"trials": 1}), lease_s=60.0) as (a, *rivals):
        a.lease_s = -1.0
        lost = a.take().lease
        taken = [claim for rival in rivals if not isinstance(claim := rival.claim(), Nothing)]
        assert [claim.lease.trial for claim in taken] == [lost.trial]


def test_a_worker_that_slept_changes_nothing(storage: str) -> None:
    with desks(storage, 2, lease_s=-1.0) as (sleeper, other):
        slept = sleeper.take().lease
        other.lease_s = 60.0
        held = other.take().lease
        assert held.trial == slept.trial
        with pytest.raises(LeaseLost):
            sleeper.report(slept, 1, 0.9)
        with pytest.raises(LeaseLost):
            sleeper.tell(slept, 0.9, 0.9)
        assert not sleeper.do(lambda c, _: leases.renew(c, slept, seconds=60))
        assert sleeper.rows("select * from criteria_folds") == []
        assert other.tell(held, 0.5, 0.5) == "complete"


def test_a_lease_that_ran_out_but_was_not_taken_is_kept(storage: str) -> None:
    with desks(storage, 1, lease_s=-1.0) as (a,):
        lease = a.take().lease
        assert a.do(lambda c, _: leases.renew(c, lease, seconds=60))
        assert not a.report(lease, 1, 0.5).stop


def test_leases_are_not_judged_while_the_store_was_away(storage: str) -> None:
    with desks(storage, 2, spec=spec_of(budget={"trials": 1}), lease_s=-1.0) as (a, b):
        a.take()
        b.may_judge = False
        assert b.claim() == Nothing("wait")
        b.may_judge = True
        assert b.take().attempt == 2


def test_a_worker_known_to_be_dead_is_not_waited_for(storage: str) -> None:
    with desks(storage, 2, spec=spec_of(budget={"trials": 1}), lease_s=3600.0) as (a, b):
        claim = a.take()
        assert b.claim() == Nothing("wait")
        b.dead = {a.id}
        assert b.take().lease.trial == claim.lease.trial
        assert b.rows("select ended_at from criteria_workers where id = :id", id=a.id)[0][0]


def test_a_claim_whose_answer_was_lost_is_found_again(storage: str) -> None:
    with desks(storage, 1) as (a,):
        unheard = a.take()
        heard = a.take()
        assert heard.lease.trial == unheard.lease.trial
        assert a.states() == ["RUNNING"]


def test_a_claim_that_fails_in_the_middle_leaves_nothing(storage: str) -> None:
    with desks(storage, 1) as (a,):
        with pytest.raises(KeyError):
            a.do(lambda c, o: (a.claimer.claim(c, o), {}["x"]))
        assert a.states() == []
        assert a.take().lease.trial == 0
        assert a.whole_trial() == 0


def test_a_trial_that_kills_its_workers_is_failed(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(budget={"trials": 1}), lease_s=-1.0) as (a,):
        first = a.take().lease
        ids = [a.id]
        for attempt in range(2, LOST_IN_A_ROW + 1):
            a.id = _another(a)
            ids.append(a.id)
            assert a.take().attempt == attempt
        a.id = _another(a)
        replaced = a.take().lease
        assert replaced.trial == first.trial + 1
        assert a.states() == ["FAIL", "RUNNING"]
        assert a.rows("select cause from criteria_attempts where outcome = 'failed'") == [
            ("killed",)
        ]


def test_a_trial_that_gets_on_survives_many_deaths(storage: str) -> None:
    with desks(storage, 1, spec=spec_of(training={"epochs": 20}), lease_s=-1.0) as (a,):
        for attempt in range(1, LOST_IN_A_ROW + 4):
            claim = a.take()
            assert (claim.lease.trial, claim.attempt) == (0, attempt)
            a.report(claim.lease, 1, 0.5, epoch=attempt)
            a.id = _another(a)


def _another(desk: Desk) -> str:
    """Another worker of the same desk."""
    other = Desk(desk.storage, desk.spec)
    other.close()
    return other.id


def test_a_trial_that_the_pruner_stopped_is_not_trained_on(storage: str) -> None:
    spec = spec_of(
        validation={"folds": 3},
        pruner={"type": "hyperband", "max_resource": 3, "startup_trials": 1},
    )
    with desks(storage, 1, spec=spec, lease_s=-1.0) as (a,):
        stopped = None
        while stopped is None:
            lease = a.take().lease
            score = 0.9 if lease.trial == 0 else 0.1
            for fold in (1, 2, 3):
                if a.report(lease, fold, score).stop:
                    stopped = lease
                    break
            else:
                a.tell(lease, score, score, score)
        a.id = _another(a)
        adopted = a.take()
        assert adopted.lease.trial == stopped.trial
        assert adopted.decided == "hyperband"


@pytest.mark.fault(13)
def test_an_enqueued_trial_is_taken_once(storage: str) -> None:
    with desks(storage, 2) as (a, b):

        def enqueue(connection, opened):  # type: ignore[no-untyped-def]
            with joined(a.engine, connection) as inner:
                study = optuna.load_study(study_name="s", storage=inner)
                study.enqueue_trial({"learning_rate": 1e-4, "batch_size": 32})

        a.do(enqueue)
        first, second = a.take(), b.take()
        assert first.params == {"learning_rate": 1e-4, "batch_size": 32}
        assert second.lease.trial != first.lease.trial


def test_a_running_trial_of_another_program_is_failed(storage: str) -> None:
    with desks(storage, 1) as (a,):

        def ask(connection, opened):  # type: ignore[no-untyped-def]
            with opened.within(connection) as study:
                study.ask()

        a.do(ask)
        assert a.do(finish_orphans) == 1
        assert a.do(finish_orphans) == 0
        assert a.whole_trial() == 1
        assert a.states() == ["FAIL", "COMPLETE"]


def test_a_lease_of_a_trial_that_another_program_finished_is_forgotten(storage: str) -> None:
    with desks(storage, 2) as (a, b):
        a.take()
        a.rows("update trials set state = 'FAIL' where number = 0 returning number")
        b.dead = {a.id}
        assert b.take().lease.trial == 1
        assert b.rows("select trial from criteria_leases") == [(1,)]


def test_a_claim_under_way_is_no_orphan(storage: str) -> None:
    """Looking for orphans waits for the claim's transaction."""
    with desks(storage, 2) as (a, b), ThreadPoolExecutor(1) as pool:
        with a.engine.begin() as connection:
            claim = a.claimer.claim(connection, a.opened)
            looking = pool.submit(b.do, finish_orphans)
            with pytest.raises(TimeoutError):
                looking.result(0.5)
        a.opened.committed()
        assert looking.result(60) == 0
        assert not isinstance(claim, Nothing)
        assert a.tell(claim.lease, 0.5, 0.5) == "complete"


def test_two_workers_that_start_in_the_same_instant_have_two_names(
    storage: str, postgres: PostgresServer
) -> None:
    with desks(storage, 2) as (a, b), ThreadPoolExecutor(1) as threads:

        def begin(connection: sa.Connection) -> str:
            row = WorkerRow(uuid.uuid4().hex, "s", "cpu", {})
            return rows.register(connection, row, name="n", uid=a.uid, stale_s=60, shared=True)

        with a.engine.begin() as connection:
            first = begin(connection)
            second = threads.submit(b.do, lambda c, _: begin(c))
            if not a.url.is_sqlite:
                waiting = "select count(*) from pg_locks where not granted"
                wait_until(lambda: postgres.execute(waiting)[0][0] or second.done(), what="a wait")
        assert [first, second.result(60)] == ["n", "n-2"]
