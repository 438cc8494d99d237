"""Hyperband over folds and epochs is Optuna's, told the right things at the right steps."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from played_study import PlayedStudy, State, definition, random_table

from criteria_cli.hpo.hyperband import bracket_of, hyperband_pruner, promoted, rungs_of
from criteria_cli.hpo.pruning import optuna_pruner, reported
from criteria_cli.study.trial import EpochReport, FoldReport


@pytest.mark.parametrize(
    ("folds", "low", "factor"), [(5, 1, 3), (5, 1, 2), (10, 2, 3), (3, 1, 3), (7, 1, 4)]
)
@pytest.mark.parametrize("name", ["criteria", "demo", "pc_ce"])
def test_brackets_are_those_of_optuna(folds: int, low: int, factor: int, name: str) -> None:
    spec = definition(folds, name=name, min_resource=low, reduction_factor=factor)
    pruner = hyperband_pruner(spec)
    study = optuna.create_study(study_name=name, pruner=pruner)
    trial = study.ask()
    trial.report(0.5, 1)
    trial.should_prune()  # sets its brackets up
    frozen = study.get_trials()[0]
    for number in range(200):
        frozen.number = number
        assert bracket_of(spec, name, number) == pruner._get_bracket_id(study, frozen)


def test_decisions_are_those_of_optuna_on_running_means() -> None:
    table = random_table(150)
    spec = definition(startup_trials=0)
    ours = PlayedStudy(spec, table)
    ours.run(150)

    theirs = optuna.create_study(
        study_name=spec.name,
        direction="maximize",
        pruner=optuna.pruners.HyperbandPruner(1, 5, 3, bootstrap_count=0),
    )
    for number in range(150):
        trial, results, run = theirs.ask(), table[number].max(axis=1), 0
        for fold in range(1, 6):
            run = fold
            trial.report(float(results[:fold].mean()), fold)
            if fold < 5 and trial.should_prune():
                break
        stopped = run < 5
        assert ours.folds_run(number) == run
        assert (ours.trials[number] == "PRUNED") is stopped
        theirs.tell(trial, None if stopped else results.mean(), State.PRUNED if stopped else None)
    assert set(ours.reasons().values()) == {"hyperband"}


def test_rungs_stand_after_folds_one_and_three() -> None:
    table = random_table(120)
    played = PlayedStudy(definition(startup_trials=0), table)
    played.run(120)
    ran = {number: played.folds_run(number) for number in played.reasons()}
    assert set(ran.values()) == {1, 3}
    for number, folds in ran.items():
        assert folds in rungs_of(played.spec, "played", number)
    assert {rungs_of(played.spec, "played", number) for number in range(120)} == {(1, 3), (3,)}


def test_startup_trials_run_to_the_end_and_the_first_is_complete() -> None:
    """Trap 25: Optuna's own bootstrap stops exactly the trials that should be the baseline."""
    table = random_table(40)
    table -= 0.02 * np.arange(40)[:, None, None]  # each a little worse than the last
    played = PlayedStudy(definition(startup_trials=12), table)
    played.run(40)
    assert [played.trials[number] for number in range(12)] == ["COMPLETE"] * 12
    assert all(played.trials[number] == "PRUNED" for number in range(30, 40))
    without = PlayedStudy(definition(startup_trials=0), table)
    without.run(5)
    assert without.trials[0] == "COMPLETE"


def test_startup_trials_are_on_record_for_those_after_them() -> None:
    table = random_table(20, quality=0.0, noise=0.0, difficulty=0.0)
    table[:10] += 0.3  # the baseline is far better than anything later
    played = PlayedStudy(definition(startup_trials=10), table)
    played.run(20)
    assert all(played.trials[number] == "PRUNED" for number in range(10, 20))


@pytest.mark.parametrize("folds", [2, 3, 5, 9])
def test_nothing_is_pruned_after_its_last_fold(folds: int) -> None:
    table = random_table(60, folds)
    table[:, -1] -= 0.4 * np.arange(60)[:, None] / 60  # ever worse, but only in the last fold
    played = PlayedStudy(definition(folds, startup_trials=0), table)
    played.run(60)
    for number in played.reasons():
        assert played.folds_run(number) < folds


def test_a_trial_taken_over_at_its_rung_is_judged_as_if_undisturbed() -> None:
    """Trap 30: the answer got lost with the worker; asked again, Optuna would let it pass."""
    table = random_table(60)
    undisturbed = PlayedStudy(definition(startup_trials=3), table)
    undisturbed.run(60)
    disturbed = PlayedStudy(definition(startup_trials=3), table)
    for number in range(60):
        trial = disturbed.begin()
        for event in disturbed.events(number):
            first = disturbed.hear(trial, event)
            again = disturbed.hear(optuna.trial.Trial(disturbed.study, trial._trial_id), event)
            assert again == first
            if first.stop:
                break
        disturbed.end(trial, first)
    assert disturbed.trials == undisturbed.trials


def test_a_fold_reported_again_after_the_next_began_is_not_judged_again() -> None:
    table = random_table(30)
    played = PlayedStudy(definition(startup_trials=0), table)
    played.run(29)
    trial = played.begin()
    events = list(played.events(29))
    fold_one = next(event for event in events if isinstance(event, FoldReport))
    played.folds[29, 1] = fold_one.score
    played.epochs[29, 2, 1] = 0.1  # it was let into its second fold
    table[29] -= 0.5
    assert not played.hear(trial, FoldReport(1, 0.0, 1, 4)).stop


def test_epochs_are_counted_through_all_folds() -> None:
    spec = definition(2, 8, resource="epoch", startup_trials=0)
    assert reported(spec, EpochReport(1, 3, 0.2, 0.4, 0.5, 1.0), {}) == (0.4, 3)
    assert reported(spec, EpochReport(1, 8, 0.2, 0.4, 0.5, 1.0), {}) is None
    assert reported(spec, FoldReport(1, 0.4, 2, 5), {}) == (0.4, 8)
    value, step = reported(spec, EpochReport(2, 1, 0.6, 0.6, 0.5, 1.0), {1: 0.4}) or (0, 0)
    assert (value, step) == (pytest.approx(0.5), 9)
    # A fold that is trained again must not count what was stored of it and of later ones.
    value, _ = reported(spec, FoldReport(1, 0.3, 2, 5), {1: 0.9, 2: 0.9}) or (0, 0)
    assert value == pytest.approx(0.3)


def test_epoch_rungs_stop_trials_within_their_first_fold() -> None:
    table = random_table(80, 2, 8)
    played = PlayedStudy(definition(2, 8, resource="epoch", startup_trials=2), table)
    played.run(80)
    ran = [
        sum(owner == number for owner, _, _ in played.epochs)
        for number, reason in played.reasons().items()
        if reason == "hyperband"
    ]
    assert set(ran) <= {1, 3, 9}
    assert min(ran) == 1


@pytest.mark.parametrize("resource", ["fold", "epoch"])
def test_a_stop_says_what_was_compared(resource: str) -> None:
    table = random_table(80, 3, 8)
    played = PlayedStudy(definition(3, 8, resource=resource, startup_trials=2), table)
    played.run(80)
    stops = {n: d[-1] for n, d in played.decisions.items() if d[-1].stop}
    assert stops
    for number, stop in stops.items():
        value, needed = stop.detail["value"], stop.detail["needed"]
        assert value < needed
        if "epoch" in stop.detail:
            assert stop.words == f"hyperband {value:.4f} < {needed:.4f}"
        else:
            scores = table[number].max(axis=1)[: int(stop.detail["fold"])]
            assert value == pytest.approx(scores.mean()), "it is the trial's score in its line"
            assert stop.words == f"hyperband < {needed:.4f}"


def test_failed_trials_do_not_end_the_competition() -> None:
    table = random_table(40)
    played = PlayedStudy(definition(startup_trials=0), table)
    for number in range(40):
        trial = played.begin()
        for event in played.events(number):
            decision = played.hear(trial, event)
            if decision.stop or (number % 4 == 1 and event.fold == 2):
                break
        if number % 4 == 1 and not decision.stop:
            played.study.tell(trial, state=State.FAIL)
            played.trials[number] = "FAIL"
        else:
            played.end(trial, decision)
    assert "COMPLETE" in played.trials.values()
    assert "PRUNED" in played.trials.values()


def test_promotion_counts_the_value_itself() -> None:
    assert promoted(0.5, [], 3)
    assert promoted(0.5, [0.5, 0.4], 3)
    assert not promoted(0.4, [0.5], 3)
    assert promoted(0.8, [0.9, 0.7, 0.6, 0.5, 0.4], 3)
    assert not promoted(0.7, [0.9, 0.8, 0.6, 0.5, 0.4], 3)
    assert not promoted(float("nan"), [], 3)


def test_no_pruner_ever_bootstraps() -> None:
    pruner = optuna_pruner(definition())
    assert isinstance(pruner, optuna.pruners.HyperbandPruner)
    assert pruner._bootstrap_count == 0
