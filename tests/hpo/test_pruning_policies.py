"""The rules that `benchmarks/pruning.py` replays are the originals, decision by decision."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from played_study import PlayedStudy, State, definition, random_table

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import pruning_policies as policies
import pruning_worlds as worlds

N = 60


def folds_run(table: np.ndarray, policy: policies.Policy) -> list[int]:
    return (policies.play(table, policy).run // table.shape[2]).tolist()


def by_optuna(
    table: np.ndarray, pruner: optuna.pruners.BasePruner, *, per_fold: bool = False
) -> list[int]:
    """Folds run under an Optuna pruner, asked after each fold but the last."""
    study = optuna.create_study(study_name=policies.STUDY_NAME, direction="maximize", pruner=pruner)
    ran = []
    for scores in table.max(axis=2):
        trial, run = study.ask(), 0
        for fold in range(1, len(scores) + 1):
            run = fold
            value = scores[fold - 1] if per_fold else scores[:fold].mean()
            trial.report(float(value), fold)
            if fold < len(scores) and trial.should_prune():
                break
        pruned = run < len(scores)
        study.tell(trial, None if pruned else scores.mean(), State.PRUNED if pruned else None)
        ran.append(run)
    return ran


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return random_table(N, 5, 3, noise=0.03, seed=1)


def test_hyperband(table: np.ndarray) -> None:
    theirs = by_optuna(table, optuna.pruners.HyperbandPruner(1, 5, 3))
    assert folds_run(table, policies.at_folds(policies.Hyperband(5), startup=0)) == theirs


def test_hyperband_with_a_bootstrap(table: np.ndarray) -> None:
    theirs = by_optuna(table, optuna.pruners.HyperbandPruner(1, 5, 3, bootstrap_count=10))
    ours = policies.at_folds(policies.Hyperband(5, bootstrap=10), startup=0)
    assert folds_run(table, ours) == theirs


def test_median(table: np.ndarray) -> None:
    theirs = by_optuna(table, optuna.pruners.MedianPruner())
    assert folds_run(table, policies.at_folds(policies.optuna_median(), startup=0)) == theirs


def test_successive_halving(table: np.ndarray) -> None:
    theirs = by_optuna(table, optuna.pruners.SuccessiveHalvingPruner())
    ours = policies.at_folds(policies.OptunaSuccessiveHalving(), startup=0)
    assert folds_run(table, ours) == theirs


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_wilcoxon(table: np.ndarray) -> None:
    theirs = by_optuna(table, optuna.pruners.WilcoxonPruner(), per_fold=True)
    assert folds_run(table, policies.at_folds(policies.optuna_wilcoxon(), startup=0)) == theirs


def test_asha_cuts_at_powers_of_four_below_the_upper_quartile() -> None:
    """As Ray Tune's `_Bracket.on_result`: compared with those recorded before it, then recorded."""
    table = random_table(40, 5, 4, seed=3)
    run = policies.play(table, policies.RayAsha()).run
    recorded: dict[int, list[float]] = {1: [], 4: [], 16: []}
    for scores, ran in zip(table, run, strict=True):
        expected = 20
        for milestone in recorded:
            fold, epoch = divmod(milestone - 1, 4)
            finished = scores[:fold].max(axis=1).sum() if fold else 0.0
            value = (finished + scores[fold, : epoch + 1].max()) / (fold + 1)
            before = list(recorded[milestone])
            recorded[milestone].append(value)
            if before and value < np.percentile(before, 75):
                expected = milestone
                break
        assert ran == expected


@pytest.mark.parametrize("pruner", ["hyperband", "racing", "racing+hyperband"])
def test_replayed_studies_are_those_that_production_would_run(pruner: str) -> None:
    table = random_table(30, 3, 3, seed=9)
    spec = definition(3, 3, name=policies.STUDY_NAME, type=pruner, startup_trials=10)
    played = PlayedStudy(spec, table)
    played.run(30)
    ran = [sum(owner == number for owner, _, _ in played.epochs) for number in range(30)]
    if pruner == "hyperband":
        replayed = policies.play(table, policies.at_folds(policies.Hyperband(3)))
    else:
        hyperband = policies.Hyperband(3) if "+" in pruner else None
        policy = policies.Racing(hyperband=hyperband, refit_growth=1.0, restart=True)
        replayed = policies.play(table, policy)
    assert replayed.run.tolist() == ran


def test_the_spec_prunes_most_trials_even_after_their_last_fold() -> None:
    table = random_table(200, 5, 3, difficulty=0.0, seed=2)
    played = policies.play(table, policies.spec_exactly(5))
    whole = played.run == played.whole
    assert (whole & ~played.complete).any()
    assert played.complete.mean() < 0.15


def test_confirming_finishes_what_looked_best() -> None:
    table = random_table(60, 4, 4, seed=4)
    played = policies.play(table, policies.Racing())
    before = played.complete.sum()
    policies.confirm(played, 3)
    assert played.complete.sum() == before + 3


def test_a_simulated_truth_is_what_scores_scatter_around() -> None:
    scores, true = worlds.simulate(worlds.World(), 400, np.random.default_rng(0))
    error = scores.max(axis=2).mean(axis=1) - true
    assert abs(error.mean()) < 0.005
    assert error.std() == pytest.approx(0.03 / 5**0.5, rel=0.15)


def test_true_means_come_from_repeats_and_are_drawn_together_by_their_noise() -> None:
    rng = np.random.default_rng(0)
    true = 0.5 + 0.02 * rng.standard_normal(2000)
    means = true + 0.03 * rng.standard_normal((3, 2000))
    behind = means[0] < np.quantile(means[0], 0.75)
    means[1:, behind] = np.nan
    means[2, ::2] = np.nan
    found = worlds.true_means(means)
    assert found.noise == pytest.approx(0.03, rel=0.15)
    best = true[~behind]
    assert found.spread == pytest.approx(best.std(), rel=0.3)
    plain = np.nanmean(means[1:, ~behind], axis=0)
    estimated = found.each[~behind]
    assert np.square(estimated - best).mean() < 0.7 * np.square(plain - best).mean()
    assert means[0, ~behind].mean() > estimated.mean() + 0.01
    assert estimated.mean() == pytest.approx(best.mean(), abs=0.003)


def test_the_recorded_table_is_whole() -> None:
    table, true = worlds.recorded()
    assert len(table) == len(true) >= 150
    assert table.shape[1] == 5
    assert np.isfinite(table).all()
    assert np.isfinite(true).all()
    assert (table >= 0).all()
    assert (table <= 1).all()
