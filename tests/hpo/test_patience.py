"""Patience against the trial's own folds and against the incumbent's."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from played_study import PlayedStudy, definition, random_table

from criteria_cli.hpo.patience import (
    incumbent_patience_stops,
    own_patience_stops,
    paired_noise,
)
from criteria_cli.hpo.scores import Scores


def finished(scores: np.ndarray) -> Scores:
    trials, folds = scores.shape
    return Scores(
        number=np.arange(trials),
        complete=np.ones(trials, dtype=bool),
        stopped=np.zeros(trials, dtype=bool),
        folds=scores,
        epochs=np.empty((trials, folds, 0)),
    )


def test_own_patience_stops_most_trials_by_the_order_of_their_folds() -> None:
    """Trap 27: of equally likely orders of five scores, 1/3 + 1/4 stop before the last fold."""
    orders = list(itertools.permutations([0.1, 0.2, 0.3, 0.4, 0.5]))
    stopped = [
        any(own_patience_stops(np.array(order[:done]), 2) for done in range(1, 5))
        for order in orders
    ]
    assert Fraction(sum(stopped), len(orders)) == Fraction(7, 12)
    after_all = [
        any(own_patience_stops(np.array(order[:done]), 2) for done in range(1, 6))
        for order in orders
    ]
    assert Fraction(sum(after_all), len(orders)) == Fraction(47, 60)


def test_equal_folds_do_not_beat_the_best() -> None:
    assert own_patience_stops(np.array([0.5, 0.5, 0.5]), 2)
    assert not own_patience_stops(np.array([0.5, 0.5, 0.6]), 2)


def test_own_patience_is_the_spec_s_rule_but_never_after_the_last_fold() -> None:
    table = random_table(80, difficulty=0.0, quality=0.0)
    spec = definition(type="none", startup_trials=0, patience={"folds": 2, "against": "self"})
    played = PlayedStudy(spec, table)
    played.run(80)
    for number in range(80):
        results = table[number].max(axis=1)
        stop = next((k for k in range(3, 5) if own_patience_stops(results[:k], 2)), 5)
        assert played.folds_run(number) == stop
    assert set(played.reasons().values()) == {"patience"}
    assert {played.folds_run(number) for number in played.reasons()} == {3, 4}


def test_noise_is_what_trials_and_folds_do_not_explain() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0, 0.1, (400, 1)) + rng.normal(0, 0.2, 5) + rng.normal(0, 0.03, (400, 5))
    assert paired_noise(finished(scores)) == pytest.approx(0.03, rel=0.1)
    assert np.isnan(paired_noise(finished(scores[:2])))


def test_the_incumbent_is_met_on_its_own_folds() -> None:
    history = finished(np.array([[0.9, 0.3, 0.9, 0.9, 0.9]]))
    # Lower than the incumbent's mean, yet above it on the hard second fold.
    assert not incumbent_patience_stops(np.array([0.8, 0.4]), history, 2, margin=0.0)
    assert incumbent_patience_stops(np.array([0.8, 0.2]), history, 2, margin=0.0)
    assert not incumbent_patience_stops(np.array([0.95, 0.2]), history, 2, margin=0.0)
    assert not incumbent_patience_stops(np.array([0.8]), history, 2, margin=0.0)


def test_a_margin_is_in_units_of_the_noise_and_waits_until_it_is_known() -> None:
    rng = np.random.default_rng(1)
    scores = 0.5 + rng.normal(0, 0.02, (30, 5))
    scores[7] = 0.6
    history = finished(scores)
    sd = paired_noise(history) * np.sqrt(2)
    assert incumbent_patience_stops(np.full(2, 0.6 - 1.1 * sd), history, 2, margin=1.0)
    assert not incumbent_patience_stops(np.full(2, 0.6 - 0.9 * sd), history, 2, margin=1.0)
    assert not incumbent_patience_stops(np.zeros(2), finished(scores[:2]), 2, margin=1.0)
    assert incumbent_patience_stops(np.zeros(2), finished(scores[:2]), 2, margin=0.0)


def test_without_a_complete_trial_there_is_no_incumbent() -> None:
    history = finished(np.full((1, 5), 0.5))
    running = Scores(
        history.number, np.array([False]), history.stopped, history.folds, history.epochs
    )
    assert running.incumbent is None
    assert not incumbent_patience_stops(np.zeros(4), running, 2, margin=0.0)


def test_the_reason_names_the_incumbent() -> None:
    table = random_table(30)
    table[4] += 0.3
    spec = definition(type="none", startup_trials=5, patience={"folds": 2})
    played = PlayedStudy(spec, table)
    played.run(30)
    stops = [decisions[-1] for decisions in played.decisions.values() if decisions[-1].stop]
    assert stops
    assert {(stop.reason, stop.detail["incumbent"]) for stop in stops} == {("patience", 4)}
    assert {stop.detail["fold"] for stop in stops} == {2}
    assert {stop.words for stop in stops} == {"patience, behind trial 4"}
