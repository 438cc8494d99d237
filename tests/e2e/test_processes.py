"""Supervisor and trainer: either may be killed, stopped or told to end at any moment."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from invariants import check, outcomes, trained_twice
from processes import Command, Place, is_running, wait_until

from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.status import read_study
from criteria_cli.hpo.tables import decisions
from criteria_cli.hpo.url import read_url


def is_stopped(pid: int) -> bool:
    return "T" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def freeze_between_transactions(command: Command) -> None:
    """Stop a process where it holds no lock of an SQLite file: nothing could take that from it."""

    def frozen() -> bool:
        command.signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(command.pid))
        if f"POSIX  ADVISORY  WRITE {command.pid} " not in Path("/proc/locks").read_text():
            return True
        command.signal(signal.SIGCONT)
        return False

    wait_until(frozen, what="a moment between transactions")


# -- the trainer dies ----------------------------------------------------------------------------


@pytest.mark.fault(4, 5, 6)
@pytest.mark.parametrize(
    ("action", "cause", "at"), [("kill", "killed", 3), ("abort", "crashed", 6)]
)
def test_a_trainer_that_dies_costs_an_attempt_and_no_fold(
    sqlite_place: Place, action: str, cause: str, at: int
) -> None:
    place = sqlite_place.write(trials=2, folds=2, epochs=4)
    faults = {"TRAINER_FAULTS": f"trainer.epoch:{action}@{at}", "CRITERIA_FAULTS_ONCE": "."}
    worker = place.start(env=faults)
    assert worker.end() == 0, worker.text
    assert outcomes(place)[0] == (0, "retried", cause)
    check(place.storage, place.runs, place.name, target=2)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == 0
    assert again["epochs_again"] <= 1


def test_a_trainer_that_dies_idle_costs_no_trial_an_attempt(place: Place) -> None:
    place.write(trials=1, epochs=20)
    first = place.start(env={"SYNTHETIC_EPOCH_S": "0.2"})
    first.wait_for("EpochEnded")
    waiting = place.start()
    waiting.wait_for("WorkerReady")
    os.kill(waiting.trainers()[0], signal.SIGKILL)
    waiting.wait_for("TrainerRestarted")
    first.signal(signal.SIGTERM)
    assert first.end() == 75, first.text
    assert waiting.end() == 0, waiting.text
    assert [outcome for _, outcome, _ in outcomes(place)] == ["yielded", "complete"]
    check(place.storage, place.runs, place.name, target=1)


def test_a_trainer_that_dies_between_the_claim_and_the_order_costs_no_attempt(place: Place) -> None:
    place.write(trials=1)
    worker = place.start(env={"CRITERIA_FAULTS": "claim.after:stop@1"})
    wait_until(lambda: is_stopped(worker.pid), what="the first claim")
    trainer = worker.trainers()[0]
    os.kill(trainer, signal.SIGKILL)
    wait_until(lambda: not is_running(trainer))
    worker.signal(signal.SIGCONT)
    assert worker.end() == 0, worker.text
    assert "TrainerRestarted" in worker.text
    assert [outcome for _, outcome, _ in outcomes(place)] == ["complete"]
    check(place.storage, place.runs, place.name, target=1)


@pytest.mark.fault(54)
def test_a_stuck_trainer_is_stopped_with_its_stacks_in_the_log(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1)
    place.timings["progress"] = 1.5
    faults = {"TRAINER_FAULTS": "trainer.epoch:hang@2", "CRITERIA_FAULTS_ONCE": "."}
    worker = place.start(env=faults)
    assert worker.end() == 0, worker.text
    assert outcomes(place)[0] == (0, "retried", "stuck")
    log = place.log.read_text()
    assert "most recent call first" in log
    assert "in _fold" in log
    check(place.storage, place.runs, place.name, target=1)


def test_a_trial_that_kills_trainers_is_failed_and_replaced(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1, epochs=1)
    faults = {"TRAINER_FAULTS": "trainer.fold:kill@1"}
    worker = place.start(env=faults)
    assert worker.end() == 1, worker.text
    retried = (0, "retried", "killed")
    assert outcomes(place) == [retried, retried, (0, "failed", "killed")]  # the first got on
    assert "trials in a row failed here" in worker.text


@pytest.mark.fault(57)
@pytest.mark.parametrize(("refusal", "status"), [("machine", 3), ("usage", 2)])
def test_a_machine_that_cannot_train_touches_no_trial(
    sqlite_place: Place, refusal: str, status: int
) -> None:
    place = sqlite_place.write()
    worker = place.start(env={"SYNTHETIC_REFUSE": refusal})
    assert worker.end() == status
    assert "nothing" in worker.text
    assert outcomes(place) == []


def test_a_trainer_that_could_not_hear_us_while_it_started_is_started_again(
    sqlite_place: Place,
) -> None:
    """A machine that was asleep or too busy in these seconds is no reason to leave the study."""
    place = sqlite_place.write(trials=1)
    worker = place.start(env={"SYNTHETIC_REFUSE": "deaf once"})
    assert worker.end() == 0, worker.text
    assert (place.folder / "deaf").exists()
    check(place.storage, place.runs, place.name, target=1)


def test_workers_of_one_study_compute_in_one_precision(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1)
    first = place.start(env={"SYNTHETIC_PRECISION": "bf16", "SYNTHETIC_COLLAPSED": "1"})
    assert first.end() == 0, first.text
    assert len(re.findall(r"FoldEnded\(.*collapsed=True\)", first.text)) == 2
    other = place.start(trials=2, env={"SYNTHETIC_PRECISION": "fp32"})
    assert other.end() == 2, other.text
    assert "computes in bf16, here `training.precision` is fp32" in other.text
    assert [trial for trial, _, _ in outcomes(place)] == [0]


# -- the supervisor dies -------------------------------------------------------------------------


@pytest.mark.fault(7)
def test_a_trainer_dies_with_its_supervisor_and_another_goes_on(place: Place) -> None:
    place.write(trials=2, epochs=30)
    first = place.start()
    first.wait_for(r"EpochEnded.*trial=0.*fold=1.*epoch=3,")
    trainers = first.trainers()
    assert len(trainers) == 1
    first.kill()
    wait_until(lambda: not is_running(trainers[0]), 15, "the trainer's end")
    second = place.start()
    second.wait_for(r"TrialStarted.*trial=0, attempt=2")
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=2)
    assert trained_twice(place.runs / place.name)["epochs_again"] <= 1


@pytest.mark.fault(9, 10, 11)
@pytest.mark.parametrize(
    "where",
    [
        "claim.asked",
        "claim.granted",
        "claim.after",
        "report.stored",
        "result.before_tell",
        "tell.told",
    ],
)
def test_a_kill_at_a_bad_moment_loses_and_doubles_nothing(place: Place, where: str) -> None:
    place.write(trials=2)
    first = place.start(env={"CRITERIA_FAULTS": f"{where}:kill@1"})
    assert first.end() == -signal.SIGKILL
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=2)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == again["epochs_again"] == 0


@pytest.mark.fault(10)
def test_a_kill_in_the_middle_of_an_adoption(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=2)
    first = place.start(env={"CRITERIA_FAULTS": "report.stored:kill@3"})
    assert first.end() == -signal.SIGKILL
    second = place.start(env={"CRITERIA_FAULTS": "claim.adopted:kill@1"})
    assert second.end() == -signal.SIGKILL
    third = place.start()
    assert third.end() == 0, third.text
    check(place.storage, place.runs, place.name, target=2)


def test_a_fold_finished_after_the_stop_is_kept_when_its_worker_dies(place: Place) -> None:
    """A trainer that waited too long for the pruner goes on; then the stop is on record before the
    last fold is."""
    place.write(trials=1, folds=3, epochs=2)
    worker = place.start(env={"CRITERIA_FAULTS": "report.stored:kill@6"})  # of the second fold
    assert worker.end() == -9, worker.text
    engine = make_engine(read_url(place.storage))
    with engine.begin() as connection:
        connection.execute(
            sa.insert(decisions).values(
                study="s", trial=0, fold=1, reason="hyperband", detail="{}", at=0.0
            )
        )
    engine.dispose()
    second = place.start()
    assert second.end() == 0, second.text
    assert [outcome for _, outcome, _ in outcomes(place)] == ["lost", "pruned"]
    check(place.storage, place.runs, place.name, target=1)


def test_folds_finished_without_an_answer_count_when_their_worker_dies(sqlite_place: Place) -> None:
    """The store is away, the trainer goes on and finishes the trial, and the worker dies with its
    reports. Whoever comes next is told to stop at the first fold."""
    place = sqlite_place.write(trials=2, folds=3, epochs=2, pruner="hyperband", startup=0)
    worker = place.start(env={"SYNTHETIC_EPOCH_S": "0.3"})
    worker.wait_for(r"TrialStarted.*trial=1,")
    lock = sqlite3.connect(place.folder / "store.db", timeout=30, isolation_level=None)
    lock.execute("begin exclusive")
    trial = place.runs / "s" / "trial-1"
    wait_until((trial / "result.json").exists, what="the end of the trial")
    worker.kill()
    lock.execute("rollback")
    lock.close()
    second = place.start()
    assert second.end() == 0, second.text
    assert "trial=1, state='complete'" in second.text
    check(place.storage, place.runs, place.name, target=2)


@pytest.mark.fault(15)
def test_a_worker_that_was_frozen_finds_its_trial_taken_and_takes_another(place: Place) -> None:
    place.write(trials=3, epochs=4)
    frozen = place.start(env={"SYNTHETIC_EPOCH_S": "0.5"})
    frozen.wait_for(r"EpochEnded.*trial=0.*epoch=2,")
    trainer = frozen.trainers()[0]
    freeze_between_transactions(frozen)
    other = place.start()
    other.wait_for(r"TrialStarted.*trial=0, attempt=2")
    assert not is_running(trainer), "the frozen worker's trainer ends before its trial is taken"
    frozen.signal(signal.SIGCONT)
    assert frozen.end() == 0, frozen.text
    assert other.end() == 0, other.text
    assert "state='lost'" in frozen.text or "abandoned" in frozen.text, frozen.text
    check(place.storage, place.runs, place.name, target=3)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What lies in a folder; a file that was put in place again has another number."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "writing", ["2", "3", "7"], ids=["a checkpoint", "a fold", "the trial's result"]
)
def test_a_frozen_trainer_that_wakes_writes_nothing_over_its_successors_files(
    place: Place, writing: str
) -> None:
    """All of a job is frozen while a file is on its way into the trial's folder; another worker
    takes the trial over, and finishes it before the first goes on."""
    place.write(trials=1)
    frozen = place.start(env={"TRAINER_FAULTS": f"file.rename:stop@{writing}"})
    wait_until(lambda: frozen.trainers(), what="the trainer's start")
    trainer = frozen.trainers()[0]
    wait_until(lambda: is_stopped(trainer), what="the trainer's stop")
    freeze_between_transactions(frozen)
    other = place.start()
    assert other.end() == 0, other.text
    assert "TrialStarted" in other.text
    before = files_of(place.runs / "s" / "trial-0")
    os.kill(trainer, signal.SIGCONT)
    wait_until(lambda: not is_running(trainer) or not is_stopped(trainer))
    frozen.signal(signal.SIGCONT)
    assert frozen.end() == 0, frozen.text
    assert files_of(place.runs / "s" / "trial-0") == before
    check(place.storage, place.runs, place.name, target=1)
    assert [outcome for _, outcome, _ in outcomes(place)] == ["lost", "complete"]


def test_a_store_that_knows_less_than_the_results_is_not_trained_into(
    sqlite_place: Place,
) -> None:
    """As after a backup was put back: the trial's folder is a later attempt's."""
    place = sqlite_place.write(trials=1)
    later = place.runs / "s" / "trial-0" / ".attempt-0-2"
    later.mkdir(mode=0o700, parents=True)
    worker = place.start()
    assert worker.end() == 4, worker.text
    assert "`s/trial-0` was written by a later attempt than the store knows of" in worker.text
    assert list(later.parent.iterdir()) == [later]


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("number", "phase"),
    [
        (signal.SIGINT, r"EpochEnded"),
        (signal.SIGTERM, r"TrialStarted"),
        (signal.SIGHUP, r"FoldEnded"),
        (signal.SIGUSR1, r"WorkerReady"),
    ],
)
def test_the_first_signal_saves_and_gives_the_trial_back(
    sqlite_place: Place, number: signal.Signals, phase: str
) -> None:
    place = sqlite_place.write(trials=1, epochs=20)
    worker = place.start()
    worker.wait_for(phase)
    worker.signal(number)
    assert worker.end(30) == 75, worker.text
    assert f"stopped by {number.name}, everything is saved" in worker.text
    assert all(outcome == "yielded" for _, outcome, _ in outcomes(place))
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 0


def test_a_signal_while_the_trainer_starts(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1)
    worker = place.start(env={"TRAINER_FAULTS": "trainer.start:hang"})
    wait_until(lambda: worker.trainers(), what="the trainer's start")
    worker.signal(signal.SIGTERM)
    assert worker.end(20) == 75, worker.text
    assert outcomes(place) == []


@pytest.mark.fault(17)
def test_the_second_interrupt_ends_at_once(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1)
    worker = place.start(env={"TRAINER_FAULTS": "trainer.epoch:hang@2"})
    worker.wait_for("EpochEnded")
    trainers = worker.trainers()
    worker.signal(signal.SIGINT)
    worker.wait_for("SignalSeen")
    worker.signal(signal.SIGINT)
    assert worker.end(10) == 130
    wait_until(lambda: not is_running(trainers[0]), 15, "the trainer's end")
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1)


@pytest.mark.fault(18)
def test_a_storm_of_signals_is_one_signal(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1, epochs=20)
    worker = place.start()
    worker.wait_for("EpochEnded")
    for _ in range(20):
        worker.signal(signal.SIGTERM)
    assert worker.end(30) == 75, worker.text
    assert len([line for line in worker.lines if "SignalSeen" in line]) == 1
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1)


@pytest.mark.fault(19)
def test_a_save_that_is_too_slow_costs_the_work_since_the_last(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1, epochs=10)
    place.timings["drain"] = 1.0
    worker = place.start(env={"TRAINER_FAULTS": "trainer.save:hang@4"})
    history = place.runs / place.name / "trial-0" / "history.jsonl"
    wait_until(  # the fourth epoch is trained, so the next thing is the save that hangs
        lambda: history.exists() and '"epoch": 4' in history.read_text(), 60, "epoch 4"
    )
    worker.signal(signal.SIGTERM)
    assert worker.end(20) == 75, worker.text
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 1


# -- the budget ----------------------------------------------------------------------------------


@pytest.mark.fault(59, 60)
def test_workers_come_and_go_and_the_budget_is_raised(place: Place) -> None:
    place.write(trials=3, epochs=10)
    first = place.start()
    first.wait_for(r"TrialEnded", count=1)
    late = place.start(trials=5)
    late.wait_for(r"TrialStarted")
    first.signal(signal.SIGTERM)
    assert first.end() == 75, first.text
    assert late.end() == 0, late.text
    check(place.storage, place.runs, place.name, target=5)


def test_a_budget_that_is_lowered_stops_what_is_over_and_keeps_it(place: Place) -> None:
    place.write(trials=4, epochs=8)
    worker = place.start(workers=2, env={"SYNTHETIC_EPOCH_S": "0.25"})
    worker.wait_for(r"EpochEnded", count=3)
    lowering = place.start(trials=1)
    assert worker.end() == 0, worker.text
    assert lowering.end() == 0, lowering.text
    found = read_study(place.storage, "s")
    assert (found.trials.finished, found.trials.waiting, found.state) == (1, 1, "finished")
    assert [trouble.code for trouble in found.troubles] == ["over_budget"]
    raised = place.start(trials=2)
    assert raised.end() == 0, raised.text
    check(place.storage, place.runs, place.name, target=2)
    again = trained_twice(place.runs / "s")
    assert again["epochs_again"] == again["folds_again"] == 0


def test_hours_end_a_worker_after_its_trial(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=50)
    worker = place.start(hours=1e-6)
    assert worker.end() == 0, worker.text
    assert worker.lines[-1].endswith("hours")
    assert outcomes(place) == []


def test_two_workers_of_one_command(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=6, epochs=6)
    command = place.start(workers=2)
    assert command.end() == 0, command.text
    check(place.storage, place.runs, place.name, target=6)
    names = {
        line.split("worker='")[1].split("'")[0] for line in command.lines if "WorkerReady" in line
    }
    assert len(names) == 2


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.fault(2)
def test_one_bad_machine_stops_after_three_failures_and_the_study_goes_on(
    sqlite_place: Place,
) -> None:
    place = sqlite_place.write(trials=4, epochs=1)
    good = place.start()
    good.wait_for("TrialEnded.*complete")
    bad = place.start(trials=9, env={"SYNTHETIC_FAIL": "cuda_oom:*"})
    assert bad.end() == 1, bad.text
    assert "3 trials in a row failed here, the last with `cuda_oom`" in bad.text
    if good.end() == 0 and "target" not in good.text:
        last = place.start()
        assert last.end() == 0, last.text
    failed = [trial for trial, outcome, _ in outcomes(place) if outcome == "failed"]
    assert len(failed) <= 3


def test_a_study_whose_first_five_trials_fail_alike_pauses(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=9)
    env = {"SYNTHETIC_FAIL": "model:*"}
    first = place.start(env=env)
    assert first.end() == 1, first.text
    second = place.start(env=env)
    assert second.end() == 1, second.text
    assert "is paused: its first trials all failed with `model`" in second.text
    healed = place.start(trials=2)
    assert healed.end() == 0, healed.text
    check(place.storage, place.runs, place.name, target=2)


@pytest.mark.fault(50)
def test_a_trial_whose_loss_is_no_number_fails_once_and_is_replaced(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=2)
    worker = place.start(env={"SYNTHETIC_FAIL": "nan_loss:1"})
    assert worker.end() == 0, worker.text
    assert (1, "failed", "nan_loss") in outcomes(place)
    check(place.storage, place.runs, place.name, target=2)


@pytest.mark.fault(55)
def test_a_device_that_is_gone_stops_the_worker_and_gives_the_trial_back(
    sqlite_place: Place,
) -> None:
    place = sqlite_place.write(trials=2)
    worker = place.start(env={"SYNTHETIC_FAIL": "device:0"})
    assert worker.end() == 3, worker.text
    assert outcomes(place) == [(0, "yielded", None)]
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=2)
