"""Racing: what beginnings of curves say of their ends, and how often it is wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from played_study import PlayedStudy, State, definition, random_table

from criteria_cli.hpo.curve_model import Forecaster, fit_curves
from criteria_cli.hpo.curves import Curves, look_epochs
from criteria_cli.hpo.racing import (
    ERROR_RATE,
    Race,
    log_chance,
    most_promising,
    open_race,
    standing,
)
from criteria_cli.hpo.racing_pruner import RacingPruner
from criteria_cli.hpo.scores import Scores


def store(table: np.ndarray, run: np.ndarray) -> Scores:
    """A store in which trial n of the table ran `run[n]` epochs."""
    trials, folds, epochs = table.shape
    place = np.arange(folds * epochs).reshape(folds, epochs)
    seen = np.where(place < run[:, None, None], table, np.nan)
    whole = np.arange(1, folds + 1) * epochs <= run[:, None]
    return Scores(
        number=np.arange(trials),
        complete=run == folds * epochs,
        stopped=run < folds * epochs,
        folds=np.where(whole, table.max(axis=2), np.nan),
        epochs=seen,
    )


def race_through(
    table: np.ndarray, startup: int = 10, refit: float = 1.1
) -> tuple[Scores, int, int]:
    """Play a study; what it left, how many trials would have beaten it, how many were stopped."""
    trials, folds, epochs = table.shape
    whole = Curves.of(table.max(axis=2), table)
    ends = np.array([fold * epochs + at for fold in range(folds)
                     for at in (*look_epochs(epochs), epochs)])  # fmt: skip
    run = np.full(trials, folds * epochs)
    means = table.max(axis=2).mean(axis=1)
    best, race, refit_at, beating, lost = -1.0, None, 0, 0, 0
    for trial in range(trials):
        if trial >= startup:
            if trial >= refit_at:
                history = store(table[:trial], run[:trial])
                race, refit_at = open_race(history), int(trial * refit) + 1
            assert race is not None
            race = replace(race, to_beat=best)
            stop = race.first_stop(whole.values[trial])
            run[trial] = run[trial] if stop is None else ends[stop]
            beating += means[trial] > best
            lost += means[trial] > best and stop is not None
        if run[trial] == folds * epochs:
            best = max(best, means[trial])
    return store(table, run), beating, lost


# -- curves ------------------------------------------------------------------------------------


def test_looks_are_every_epoch_at_first_and_then_thin_out() -> None:
    assert look_epochs(0) == ()
    assert look_epochs(1) == ()
    assert look_epochs(5) == (1, 2, 3, 4)
    looks = look_epochs(100)
    assert len(looks) == 11
    assert looks[:3] == (1, 2, 3)
    assert len(set(looks)) == 11
    assert looks[-1] < 100
    assert np.all(np.diff(np.diff(looks)) >= 0)


def test_a_curve_is_the_best_so_far_and_ends_in_the_fold_s_result() -> None:
    epochs = np.array([[[0.1, 0.5, 0.3, np.nan], [0.2, 0.1, np.nan, np.nan]]])
    folds = np.array([[0.5, np.nan]])
    curves = Curves.of(folds, epochs)
    assert curves.values[0].tolist() == [0.1, 0.5, 0.5, 0.5, 0.2, 0.2, 0.0, 0.0]
    assert curves.known.tolist() == [6]


def test_a_fold_without_its_epochs_is_flat_and_one_with_a_gap_is_known_up_to_it() -> None:
    epochs = np.full((2, 2, 3), np.nan)
    epochs[1, 0] = [0.1, np.nan, 0.4]
    folds = np.array([[0.6, np.nan], [np.nan, np.nan]])
    curves = Curves.of(folds, epochs)
    assert curves.values[0, :3].tolist() == [0.6, 0.6, 0.6]
    assert curves.known.tolist() == [3, 1]


# -- the model ---------------------------------------------------------------------------------


def test_forecasts_are_right_on_average_and_as_sure_as_they_say() -> None:
    """Also from curves that racing itself left unfinished: they are missing at random."""
    errors = []
    for seed in (8, 9, 10):
        table = random_table(200, 4, 5, seed=seed)
        history, _, _ = race_through(table)
        assert history.stopped.mean() > 0.7
        ahead = Forecaster.of(fit_curves(Curves.of_history(history)))
        curves = Curves.of(table.max(axis=2), table)
        final = table.max(axis=2).mean(axis=1)
        errors.append((final[:, None] - ahead.forecasts(curves.values))[:, :-1] / ahead.sd[:-1])
    standardised = np.concatenate(errors)
    for look in (0, 2, 4, 9, 14):
        assert abs(standardised[:, look].mean()) < 0.3
        assert standardised[:, look].std() == pytest.approx(1.0, abs=0.2)


def test_finished_curves_alone_would_mislead() -> None:
    table = random_table(200, 4, 5, seed=6)
    history, _, _ = race_through(table)
    all_means = table.max(axis=2).mean(axis=1)
    ahead = Forecaster.of(fit_curves(Curves.of_history(history)))
    assert ahead.prior_mean == pytest.approx(all_means.mean(), abs=0.01)
    survivors = all_means[history.complete].mean()
    assert survivors > all_means.mean() + 0.03


def test_a_start_gives_the_same_model_with_fewer_iterations() -> None:
    table = random_table(120, 3, 4, seed=2)
    history, _, _ = race_through(table)
    curves = Curves.of_history(history)
    before = fit_curves(curves.rows(np.arange(110)))
    quick = Forecaster.of(fit_curves(curves, iterations=6, start=before))
    slow = Forecaster.of(fit_curves(curves))
    assert quick.prior_mean == pytest.approx(slow.prior_mean, abs=2e-3)
    assert quick.sd == pytest.approx(slow.sd, abs=2e-3)


# -- the rule ----------------------------------------------------------------------------------


def test_of_trials_that_would_win_no_more_are_stopped_than_the_error_rate() -> None:
    beating = lost = 0
    for study in range(16):
        table = random_table(60, 3, 3, seed=study)
        _, would, stopped = race_through(table, startup=5)
        beating, lost = beating + would, lost + stopped
    assert beating > 30
    # The error rate and two standard errors of it.
    assert lost / beating <= ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / beating)


def test_racing_saves_most_epochs() -> None:
    table = random_table(150, 4, 5)
    history, _, _ = race_through(table)
    run = np.isfinite(history.epochs).sum() / history.epochs.size
    assert run < 0.4
    assert history.complete[table.max(axis=2).mean(axis=1).argmax()]


def test_no_trial_is_judged_while_fewer_than_three_are_complete() -> None:
    table = random_table(6, 4, 5)
    run = np.array([20, 20, 7, 7, 7, 7])
    assert open_race(store(table, run)) is None
    assert standing(5, np.full(4, np.nan), table[5] * 0, store(table, run)) is None
    run[2] = 20
    assert open_race(store(table, run)) is not None


def test_early_epochs_count_only_as_far_as_they_predict_the_end() -> None:
    rng = np.random.default_rng(4)
    telling = random_table(60, 4, 5, seed=4)
    silent = telling.copy()
    silent[:, :, :4] = 0.1 * rng.random(silent[:, :, :4].shape)  # noise until the last epoch
    all_run = np.full(60, 20)
    for table, may_stop in ((telling, True), (silent, False)):
        history = store(table, all_run)
        epochs = np.full((4, 5), np.nan)
        epochs[0, :2] = table[:, 0, :2].min(axis=0)  # as bad as the worst of all after two epochs
        found = standing(60, np.full(4, np.nan), epochs, history)
        assert found is not None
        assert found.stop is may_stop


def test_a_hard_fold_is_not_held_against_a_trial() -> None:
    table = random_table(60, 5, 4, difficulty=0.0, seed=8)
    table[:, 0] -= 0.25
    history = store(table, np.full(60, 20))
    best = table[int(history.incumbent or 0)]
    folds = np.full(5, np.nan)
    folds[0] = best[0].max()
    epochs = np.full((5, 4), np.nan)
    epochs[0] = best[0]
    found = standing(60, folds, epochs, history)
    assert found is not None
    assert not found.stop
    assert found.forecast > np.nanmean(history.folds)


def test_a_trial_does_not_vouch_for_itself() -> None:
    table = random_table(40, 4, 5, seed=3)
    run = np.full(40, 20)
    run[30] = 2
    history = store(table, run)
    folds, epochs = history.folds[30], history.epochs[30]
    without = store(np.delete(table, 30, axis=0), np.delete(run, 30))
    kept = Scores(
        np.delete(np.arange(40), 30), without.complete, without.stopped, without.folds,
        without.epochs,
    )  # fmt: skip
    assert standing(30, folds, epochs, history) == standing(30, folds, epochs, kept)


def test_chances_far_out_do_not_underflow() -> None:
    assert log_chance(0.0) == pytest.approx(np.log(0.5))
    assert log_chance(29.9) == pytest.approx(log_chance(30.1), rel=0.02)
    assert log_chance(1000.0) < log_chance(100.0) < log_chance(40.0)


# -- in a study --------------------------------------------------------------------------------


def test_racing_stops_trials_within_folds_and_says_why() -> None:
    table = random_table(30, 3, 4, seed=1)
    played = PlayedStudy(definition(3, 4, type="racing", startup_trials=5), table)
    played.run(30)
    stops = {n: d[-1] for n, d in played.decisions.items() if d[-1].stop}
    assert len(stops) > 12
    assert {stop.reason for stop in stops.values()} == {"racing"}
    assert any("epoch" in stop.detail for stop in stops.values())
    assert all(re.fullmatch(r"racing, chance \d\.\d%", stop.words) for stop in stops.values())
    assert all(stop.detail["chance"] < stop.detail["chance_before"] for stop in stops.values())
    best = table.max(axis=2).mean(axis=1).argmax()
    assert played.study.best_trial.number == best


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_decisions_need_only_what_the_store_held(workers: int) -> None:
    """However many workers took turns, judging again from the same store gives the same answer."""
    table = random_table(24, 3, 3, seed=2)
    played = PlayedStudy(definition(3, 3, type="racing", startup_trials=5), table)
    seen: list[tuple[Scores, int, int | None, int, bool]] = []
    hear = played.hear

    def noting(trial: optuna.trial.Trial, event):  # type: ignore[no-untyped-def]
        decision = hear(trial, event)
        seen.append((played.scores(), trial.number, getattr(event, "epoch", None), event.fold,
                     decision.stop))  # fmt: skip
        return decision

    played.hear = noting  # type: ignore[method-assign]
    played.run(24, workers)
    assert sum(state == "PRUNED" for state in played.trials.values()) > 6
    for scores, number, _, _, stop in seen:
        row = scores.row(number)
        assert row is not None
        if number < 5 or np.isfinite(scores.folds[row]).all():
            assert not stop
            continue
        found = standing(number, scores.folds[row], scores.epochs[row], scores)
        if stop:
            assert found is not None
            assert found.stop


def test_racing_composes_with_hyperband() -> None:
    table = random_table(60, 5, 2, noise=0.06, seed=3)
    played = PlayedStudy(definition(5, 2, type="racing+hyperband", startup_trials=5), table)
    played.run(60)
    assert set(played.reasons().values()) == {"racing", "hyperband"}


def test_the_most_promising_of_the_stopped_are_named() -> None:
    table = random_table(40, 4, 5, seed=7)
    run = np.full(40, 20)
    run[10:] = 5
    best = int(table.max(axis=2).mean(axis=1)[10:].argmax()) + 10
    table[best] += 0.1
    history = store(table, run)
    found = most_promising(history, 3)
    assert found[0].number == best
    assert len(found) == 3
    assert [c.chance for c in found] == sorted((c.chance for c in found), reverse=True)
    assert not {c.number for c in found} & set(range(10))
    assert most_promising(store(table[:2], run[:2]), 3) == ()


# -- as an Optuna pruner -----------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 4])
def test_as_an_optuna_pruner_it_decides_alike(epochs: int) -> None:
    table = random_table(30, 4, 4, seed=11)
    study = optuna.create_study(
        direction="maximize", pruner=RacingPruner(4, epochs, startup_trials=8)
    )
    run = np.full(30, 16)
    for number in range(30):
        trial = study.ask()
        stop = None
        for place in range(16):
            fold, epoch = divmod(place, 4)
            if not epochs and epoch < 3:
                continue
            finished = table[number].max(axis=1)[:fold].sum()
            value = (finished + table[number, fold, : epoch + 1].max()) / (fold + 1)
            trial.report(value, place + 1 if epochs else fold + 1)
            if trial.should_prune():
                stop = place + 1
                break
        run[number] = stop or 16
        mean = table[number].max(axis=1).mean()
        study.tell(trial, None if stop else mean, State.PRUNED if stop else None)
        if number >= 8:
            before = store(table[:number], run[:number])
            race = open_race(before if epochs else _folds_only(before))
            assert race is not None
            shown = table[number] if epochs else table[number][:, :0]
            own = Curves.of(table[number].max(axis=1)[None], shown[None])
            look = race.first_stop(own.values[0])
            per_look = 1 if epochs else 4
            assert stop == (None if look is None else (look + 1) * per_look)
    assert (run < 16).sum() > 8


def _folds_only(history: Scores) -> Scores:
    return Scores(
        history.number, history.complete, history.stopped, history.folds,
        history.epochs[:, :, :0],
    )  # fmt: skip


def test_as_an_optuna_pruner_it_reads_what_criteria_reports() -> None:
    """Of thirty epochs it is told the looks alone, and still decides as from the store."""
    table = random_table(24, 2, 30, seed=5)
    played = PlayedStudy(definition(2, 30, type="racing", startup_trials=5), table)
    for number in range(24):
        trial = played.begin()
        for event in played.events(number):
            decision = played.hear(trial, event)
            looked = getattr(event, "epoch", 30) in (*look_epochs(30), 30)
            if looked and not (event.fold == 2 and getattr(event, "epoch", 30) == 30):
                assert trial.should_prune() is decision.stop or number < 5
            if decision.stop:
                break
        played.end(trial, decision)
    assert len(played.reasons()) > 5


def test_it_refuses_to_minimise() -> None:
    study = optuna.create_study(direction="minimize", pruner=RacingPruner(3, startup_trials=0))
    trial = study.ask()
    trial.report(0.5, 1)
    with pytest.raises(ValueError, match="maximised"):
        trial.should_prune()


def test_trials_that_fail_make_forecasts_no_less_sure() -> None:
    table = random_table(100, 3, 4, seed=11)
    table[::5] = 0.0
    curves = Curves.of(table.max(axis=2), table)
    whole = Curves.of(table.max(axis=2)[1::5], table[1::5])
    raised = Race.of(curves, 0.5).forecaster.prior_sd
    assert raised < 1.5 * Forecaster.of(fit_curves(whole)).prior_sd
    assert raised < 0.5 * Forecaster.of(fit_curves(curves)).prior_sd


def test_floors_are_quartiles_of_what_is_known() -> None:
    values = np.array([[0.1, 0.0], [0.2, 0.9], [0.3, 0.5], [0.4, 0.7], [0.5, 0.1]])
    curves = Curves(values, np.array([1, 2, 2, 2, 1]), 1, 2)
    assert curves.floors() == pytest.approx([0.2, 0.6])
    assert curves.above(curves.floors()).values[0] == pytest.approx([0.2, 0.6])
