from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria_cli.data.formats import load_corpus
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import DataSpec, ModelSpec, StudySpec
from criteria_cli.study.trial import Verdict
from criteria_cli.training.batches import Planner
from criteria_cli.training.memory import whole_batches
from criteria_cli.training.scoring import score_pairs, score_texts
from criteria_cli.training.trainer import Trainer
from criteria_cli.training.windows import WindowRule, Windows

from .architectures import MAIN, write_checkpoint


@given(st.integers(0, 5000), st.integers(5, 500), st.floats(0.0, 0.9), st.integers(2, 12))
@settings(max_examples=300, deadline=None)
def test_windows_cover_a_post_evenly(length: int, room: int, overlap: float, most: int) -> None:
    rule = WindowRule(overlap, most, "max")
    starts = rule.starts(length, room)
    count = int(rule.counts(np.array([length]), np.array([room]))[0])
    lost = int(rule.lost(np.array([length]), np.array([room]))[0])
    assert len(starts) == count <= most
    assert starts[0] == 0
    if length <= room:
        assert (count, lost) == (1, 0)
        return
    assert starts[-1] + room == length
    steps = np.diff(starts)
    assert steps.max() - steps.min() <= 1
    if count < most:
        assert steps.max() <= max(1, np.floor(room * (1 - overlap))) + 1
        assert lost == 0
    read = {token for start in starts for token in range(start, start + room)}
    assert abs(length - len(read) - lost) <= 2 * count


PAIR = np.array([0, 1, 1, 1, 2])


def test_the_highest_window_speaks_for_a_pair() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 1.0, -3.0], requires_grad=True)
    pooled = Windows(PAIR, 3, "max").pool(scores)
    assert pooled.tolist() == [0.5, 2.0, -3.0]
    pooled.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_or_the_odds_of_all_windows_together() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 1.0, -3.0], dtype=torch.float64, requires_grad=True)
    pooled = Windows(PAIR, 3, "logsumexp").pool(scores)
    expected = [0.5, torch.logsumexp(scores[1:4], 0).item(), -3.0]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(Windows(PAIR, 3, "logsumexp").pool, (scores,))


def test_extreme_scores_pool_to_finite_ones() -> None:
    scores = torch.tensor([500.0, -500.0, -500.0, -499.0, 500.0])
    assert torch.isfinite(Windows(PAIR, 3, "logsumexp").pool(scores)).all()


@given(st.lists(st.tuples(st.integers(10, 64), st.integers(1, 6)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_pairs_windows_stay_together_within_what_fits(pairs: list[tuple[int, int]]) -> None:
    lengths, rows = (np.array(column) for column in zip(*pairs, strict=True))
    limits = whole_batches(64)
    planner = Planner(replace(limits, train=limits.train, evaluate=limits.evaluate))
    planner.admit(7, 8)
    planner.admit(7, 8, evaluation=True)
    for plan in (planner.plan(lengths, rows), planner.plan_evaluation(lengths, rows)):
        assert sorted(np.concatenate([part.rows for part in plan]).tolist()) == list(
            range(len(pairs))
        )
        for part in plan:
            assert part.device_rows == rows[part.rows].sum() <= 7


# ---- in training


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("windows")
    corpus = load_corpus(DataSpec(format="synthetic", posts=20), Path())
    texts = [*corpus.texts, *(criterion.text for criterion in corpus.criteria)]
    write_checkpoint(folder / "model", MAIN["bert"], texts)
    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "toy",
            "data": {"format": "synthetic", "posts": 20},
            "model": {"name": str(folder / "model"), "max_length": 64, "hidden_dropout": 0.0,
                      "attention_dropout": 0.0, "classifier_dropout": 0.0},
            "validation": {"folds": 2},
            "training": {"epochs": 1, "batch_size": 8, "precision": "fp32", "learning_rate": 5e-3},
        }
    )  # fmt: skip
    return Trainer(TrainerSetup(spec=spec, base=folder, directory=folder, device="cpu", threads=1))


def windowed(trainer: Trainer, **keys: object) -> ModelSpec:
    return trainer.spec.model.model_copy(update={"long_posts": "windows", **keys})


def test_a_pair_scores_as_the_best_of_its_windows_alone(trainer: Trainer) -> None:
    spec = windowed(trainer, max_windows=4)
    examples = trainer.examples(spec)
    model = trainer.model(spec)
    some = examples.set_of(np.arange(0, 27))
    rows = some.rows
    assert rows is not None
    assert rows.max() > 1
    pooled = score_pairs(model, some)
    for place in (int(rows.argmax()), int(rows.argmin())):
        batch = examples.tokens.batch(
            some.posts[place : place + 1], examples.criterion[some.pairs[place : place + 1]], 64
        )
        assert len(batch.ids) == rows[place]
        with torch.no_grad():
            alone = model.encoder.scores(model.forward(model.inputs(batch)))
        assert pooled[place] == pytest.approx(alone.max().item(), abs=1e-6)


def test_posts_that_fit_are_read_as_ever(trainer: Trainer) -> None:
    posts = ["I sleep badly.", "Tired all day, every day."]
    scores = []
    for spec in (trainer.spec.model, windowed(trainer)):
        model, examples = trainer.model(spec), trainer.examples(spec)
        scores.append(score_texts(model, examples, posts, 3))
    assert np.array_equal(*scores)


def test_nothing_is_cut_where_windows_suffice(trainer: Trainer) -> None:
    cut = {
        name: trainer.examples(spec).tokens.cut(*(np.arange(9), np.arange(9))).sum()
        for name, spec in {
            "truncate": trainer.spec.model,
            "few": windowed(trainer, max_windows=2),
            "many": windowed(trainer, max_windows=50),
        }.items()
    }
    assert cut["truncate"] > cut["few"] > cut["many"] == 0


CHANGES = {
    "long_posts": ({}, {"model.long_posts": "windows"}),
    "window_overlap": ({"model.long_posts": "windows"}, {"model.window_overlap": 0.8}),
    "max_windows": ({"model.long_posts": "windows"}, {"model.max_windows": 2}),
    "window_pooling": ({"model.long_posts": "windows"}, {"model.window_pooling": "logsumexp"}),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_each_setting_changes_the_training(setting: str, trainer: Trainer) -> None:
    needed, change = CHANGES[setting]
    losses = []
    for settings_ in (needed, needed | change):
        result = trainer.fit(
            trainer.spec.hyperparameters(settings_),
            trainer.folds[0].train[:24],
            trainer.folds[1].train[:8],
            fold=1,
            seed=3,
            report=lambda event: Verdict.CONTINUE,
        )
        losses.append(result.history[0].train_loss)
    assert losses[0] != losses[1]


def test_a_batch_split_to_fit_has_the_gradient_of_the_whole(trainer: Trainer) -> None:
    hyperparameters = trainer.spec.hyperparameters({"model.long_posts": "windows"})
    model = trainer.model(hyperparameters.model)
    some = trainer.examples(hyperparameters.model).set_of(np.arange(9))
    gradients = []
    for most in (None, 9):
        model.begin(hyperparameters)
        planner = Planner(whole_batches(64))
        if most is not None:
            planner.admit(most, 8)
        plan = planner.plan(some.lengths, some.rows)
        assert (len(plan) > 1) == (most is not None)
        for part in plan:
            (model.scores(some.tokens(part)).sum() / len(some)).backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters.values() if p.grad is not None])
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
