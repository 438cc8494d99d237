"""What every rule shares: when a trial is judged, by what, and where it may be cut next."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from played_study import PlayedStudy, definition, random_table

from criteria_cli.hpo.pruning import Cut, asks, next_cut, optuna_pruner, reported
from criteria_cli.hpo.scores import Scores
from criteria_cli.study.trial import EpochReport, FoldReport


def epoch(fold: int, number: int, score: float = 0.5) -> EpochReport:
    return EpochReport(fold, number, score, score, 0.1, 1.0)


def test_folds_are_reported_from_one_as_running_means() -> None:
    """Trap 26: reported from 0, every rung would stand one fold later."""
    spec = definition()
    assert reported(spec, FoldReport(1, 0.4, 1, 4), {}) == (0.4, 1)
    value, step = reported(spec, FoldReport(3, 0.9, 1, 4), {1: 0.4, 2: 0.5}) or (0.0, 0)
    assert (value, step) == (pytest.approx(0.6), 3)
    assert reported(spec, epoch(1, 1), {}) is None


def test_reports_that_no_rule_reads_are_not_asked_about() -> None:
    assert not asks(definition(), epoch(1, 2))
    assert asks(definition(), FoldReport(1, 0.4, 1, 4))
    assert asks(definition(resource="epoch"), epoch(1, 2))
    racing = definition(5, 100, type="racing")
    assert asks(racing, epoch(2, 1))
    assert not asks(racing, epoch(2, 71))
    assert reported(racing, epoch(1, 3), {}) == (0.5, 3)
    assert reported(racing, epoch(1, 71), {}) is None


@pytest.mark.parametrize("kind", ["none", "hyperband", "median", "racing", "racing+hyperband"])
def test_the_last_fold_is_never_cut(kind: str) -> None:
    table = random_table(30, 3, 3, seed=4)
    table[:, 2] -= 0.4 * np.arange(30)[:, None] / 30
    spec = definition(3, 3, type=kind, startup_trials=3, patience={"folds": 1})
    played = PlayedStudy(spec, table)
    played.run(30)
    for number in played.reasons():
        assert played.folds_run(number) < 3
        assert (number, 3, 3) not in played.epochs


@pytest.mark.parametrize("kind", ["hyperband", "median", "racing", "racing+hyperband"])
def test_startup_trials_run_to_the_end_under_every_rule(kind: str) -> None:
    table = random_table(16, 3, 3, seed=4)
    table -= 0.03 * np.arange(16)[:, None, None]
    spec = definition(3, 3, type=kind, startup_trials=8, patience={"folds": 1, "margin": 0.0})
    played = PlayedStudy(spec, table)
    played.run(16)
    assert all(played.trials[number] == "COMPLETE" for number in range(8))
    assert any(played.trials[number] == "PRUNED" for number in range(8, 16))


def test_none_prunes_nothing() -> None:
    played = PlayedStudy(definition(type="none", startup_trials=0), random_table(20))
    played.run(20)
    assert set(played.trials.values()) == {"COMPLETE"}


def test_median_is_that_of_optuna() -> None:
    table = random_table(60, seed=2)
    played = PlayedStudy(definition(type="median", startup_trials=6), table)
    played.run(60)
    assert set(played.reasons().values()) == {"median"}
    theirs = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=6, n_warmup_steps=1),
    )
    for number in range(60):
        trial, run = theirs.ask(), 0
        for fold in range(1, 6):
            run = fold
            trial.report(float(table[number].max(axis=1)[:fold].mean()), fold)
            if fold < 5 and trial.should_prune():
                break
        assert played.folds_run(number) == run
        pruned = run < 5
        mean = table[number].max(axis=1).mean()
        state = optuna.trial.TrialState.PRUNED if pruned else None
        theirs.tell(trial, None if pruned else mean, state)


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_workers_in_company_prune_and_find_the_best(workers: int) -> None:
    table = random_table(80, seed=5)
    played = PlayedStudy(definition(patience={"folds": 2}, startup_trials=8), table)
    played.run(80, workers)
    assert len(played.trials) == 80
    assert "RUNNING" not in played.trials.values()
    assert len(played.reasons()) > 30
    means = table.max(axis=2).mean(axis=1)
    assert means[played.study.best_trial.number] > np.quantile(means, 0.95)


@pytest.mark.parametrize("kind", ["hyperband", "racing"])
def test_where_a_trial_may_be_cut_next_is_where_it_is_cut(kind: str) -> None:
    table = random_table(40, 5, 3, seed=6)
    spec = definition(5, 3, type=kind, startup_trials=5)
    played = PlayedStudy(spec, table)
    for number in range(40):
        trial = played.begin()
        fold, within = 0, None
        cut = next_cut(spec, "played", number, fold=0)
        for event in played.events(number):
            decision = played.hear(trial, event)
            if decision.stop:
                at = getattr(event, "epoch", None)
                assert cut == Cut(event.fold, at) or (at is None and cut == Cut(event.fold))
                break
            fold, within = event.fold, getattr(event, "epoch", None)
            cut = next_cut(spec, "played", number, fold=fold, epoch=within)
        played.end(trial, decision)
    assert played.reasons()


def test_next_cuts() -> None:
    spec = definition(5, 4, startup_trials=2)
    assert next_cut(spec, "played", 0, fold=0) is None
    cuts = {next_cut(spec, "played", number, fold=0) for number in range(2, 40)}
    assert cuts == {Cut(1), Cut(3)}
    assert next_cut(spec, "played", 5, fold=1) == Cut(3)
    assert next_cut(spec, "played", 5, fold=3) is None
    patience = definition(5, 4, type="none", startup_trials=0, patience={"folds": 2})
    assert next_cut(patience, "played", 5, fold=0) == Cut(2)
    assert next_cut(patience, "played", 5, fold=4) is None
    epochs = definition(2, 9, resource="epoch", startup_trials=0, min_resource=2)
    assert next_cut(epochs, "played", 1, fold=1, epoch=2) in {Cut(1, 6), None}


def test_scores_come_from_rows_in_any_order() -> None:
    scores = Scores.from_rows(
        [(4, "PRUNED"), (1, "COMPLETE"), (7, "running")],
        [(1, 2, 0.4), (4, 1, 0.1), (1, 1, 0.2), (99, 1, 0.9), (1, 3, 0.9)],
        [(7, 2, 3, 0.3), (7, 2, 9, 0.5)],
        fold_count=2,
        epoch_count=3,
    )
    assert scores.number.tolist() == [1, 4, 7]
    assert scores.folds[0].tolist() == [0.2, 0.4]
    assert scores.epochs[2, 1, 2] == 0.3
    assert np.isfinite(scores.epochs).sum() == 1
    assert scores.complete.tolist() == [True, False, False]
    assert scores.stopped.tolist() == [False, True, False]
    assert scores.row(4) == 1
    assert scores.row(5) is None
    assert scores.incumbent == 0


def test_the_earliest_of_equal_trials_is_the_incumbent() -> None:
    scores = Scores.from_rows(
        [(0, "COMPLETE"), (1, "COMPLETE"), (2, "PRUNED")],
        [(0, 1, 0.4), (1, 1, 0.4), (2, 1, 0.9)],
        fold_count=1,
    )
    assert scores.incumbent == 0


@pytest.mark.parametrize("kind", ["hyperband", "racing", "racing+hyperband", "median", "none"])
def test_every_type_has_a_pruner_that_optuna_takes(kind: str) -> None:
    spec = definition(5, 4, type=kind)
    optuna.create_study(pruner=optuna_pruner(spec))
