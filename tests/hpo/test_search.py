"""From a search space to parameters: conditions, seeds, and distributions that Optuna keeps."""

from __future__ import annotations

import optuna
from desk import desks, spec_of
from hypothesis import given
from hypothesis import strategies as st

from criteria_cli.hpo.search import sampler_for, seed_of, suggest
from criteria_cli.study.spec import StudySpec


def conditional() -> StudySpec:
    return spec_of(
        search={
            "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
            "loss": {"choices": ["cross_entropy", "focal"]},
            "focal_gamma": {"low": 1.0, "high": 3.0, "when": {"loss": "focal"}},
            "augmentation.enable": {"choices": [True, False]},
            "augmentation.probability": {
                "low": 0.1, "high": 0.9, "step": 0.1, "when": "augmentation.enable",
            },
            "frozen_layers": {"low": 0, "high": 6, "step": 2},
        }
    )  # fmt: skip


def drawn(spec: StudySpec, number: int) -> dict[str, object]:
    study = optuna.create_study(direction="maximize", sampler=sampler_for(spec, number))
    return dict(suggest(spec, study.ask()))


@given(st.integers(0, 500))
def test_a_setting_is_drawn_exactly_where_its_condition_holds(number: int) -> None:
    spec = conditional()
    params = drawn(spec, number)
    assert ("focal_gamma" in params) == (params["loss"] == "focal")
    assert ("augmentation.probability" in params) == params["augmentation.enable"]
    assert isinstance(params["frozen_layers"], int)
    assert params["frozen_layers"] in (0, 2, 4, 6)
    settings = spec.hyperparameters(params)  # type: ignore[arg-type]
    assert settings.training.learning_rate == params["learning_rate"]
    assert settings.augmentation.enable == params["augmentation.enable"]


def test_a_condition_on_a_setting_that_is_not_searched() -> None:
    search = {
        "focal_gamma": {"low": 1.0, "high": 3.0, "when": {"loss": "focal"}},
    }
    assert drawn(spec_of(search=search), 0) == {}
    focal = spec_of(search=search, training={"epochs": 2, "loss": "focal"})
    assert set(drawn(focal, 0)) == {"focal_gamma"}


def test_what_is_drawn_depends_on_the_trial_and_not_on_the_worker() -> None:
    spec = conditional()
    assert drawn(spec, 3) == drawn(spec, 3)
    assert drawn(spec, 3) != drawn(spec, 4)


def test_seeds_of_sampling_and_training_differ() -> None:
    spec = conditional()
    seeds = {seed_of(spec, number, use) for number in range(200) for use in ("sampler", "training")}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_two_workers_at_once_draw_different_trials(storage: str) -> None:
    spec = spec_of(sampler={"type": "tpe", "startup_trials": 0}, budget={"trials": 20})
    with desks(storage, 2, spec=spec) as (a, b):
        claims = [desk.take() for desk in (a, b, a, b)[:2]]
        assert claims[0].params != claims[1].params


def test_tpe_sees_parameters_together_and_counts_trials_under_way() -> None:
    sampler = sampler_for(spec_of(sampler={"type": "tpe", "startup_trials": 7}), 0)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert sampler._multivariate
    assert sampler._constant_liar
    assert sampler._n_startup_trials == 7


def test_an_interrupted_study_draws_what_an_undisturbed_one_draws(storage: str) -> None:
    """Random start-up trials and TPE alike: another worker, in another process, goes on."""
    spec = spec_of(sampler={"type": "tpe", "startup_trials": 3}, budget={"trials": 6})
    undisturbed = spec.model_copy(update={"name": "u"})
    with desks(storage, 1, spec=undisturbed) as (one,):
        expected = [_trained(one) for _ in range(6)]
    found = []
    for _ in range(6):
        with desks(storage, 1, spec=spec) as (another,):
            found.append(_trained(another))
    assert found == expected


def _trained(desk) -> dict[str, object]:  # type: ignore[no-untyped-def]
    claim = desk.take()
    score = float(claim.params["learning_rate"]) * 100
    desk.tell(claim.lease, score, score)
    return dict(claim.params)
