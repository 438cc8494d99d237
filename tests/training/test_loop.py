"""A fold: exact batches however they are split, the schedule, early stopping, and no history."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from criteria_cli.errors import TrialFailed
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.trial import EpochReport, Event, Progress, Verdict
from criteria_cli.training import memory, step
from criteria_cli.training.attention import Inputs, ReferenceForward
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.loop import FitResult, fit
from criteria_cli.training.metrics import Metrics
from criteria_cli.training.optimizer import learning_rates, parameter_groups
from criteria_cli.training.sampling import epoch_pairs
from criteria_cli.training.trainer import Trainer
from criteria_cli.training.validation import Validation

from .conftest import toy_spec

NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


def quiet(_: Event) -> Verdict:
    return Verdict.CONTINUE


class Desk:
    """One resident model and the pairs to train it on."""

    def __init__(self, folder: Path) -> None:
        self.spec = toy_spec()
        self.trainer = Trainer(TrainerSetup(self.spec, folder, folder / "runs", "cpu", 1))
        self.model = self.trainer.model(self.spec.model)
        self.examples = self.trainer.examples(self.spec.model)
        self.fold = self.trainer.folds[0]

    def settings(self, model: dict[str, Any] | None = None, **training: Any) -> Any:
        hyper = self.spec.hyperparameters(training)
        return replace(hyper, model=hyper.model.model_copy(update=model or {}))

    def fit(
        self,
        *,
        report: Callable[[Event], Verdict] = quiet,
        model: dict[str, Any] | None = None,
        checkpoints: Checkpoints | None = None,
        keep_best: bool = False,
        pairs: int | None = None,
        seed: int = 5,
        metric: str = "average_precision",
        **training: Any,
    ) -> FitResult:
        return fit(
            self.model,
            self.examples,
            self.fold.train[:pairs],
            self.fold.validation,
            self.settings(model, **training),
            metric=metric,
            seed=seed,
            report=report,
            checkpoints=checkpoints,
            keep_best=keep_best,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Examples of each batch and the rate of each update, as they happen."""
    seen: list[Any] = []
    accumulate, update = step.TrainingStep.accumulate, step.TrainingStep.update

    def counting(self: Any, micro_batches: Any, weight: float) -> Any:
        seen.append([round(weight), 0.0])  # of pairs that weigh 1 each, their number
        return accumulate(self, micro_batches, weight)

    def rating(self: Any, rate: float) -> None:
        seen[-1][1] = rate
        update(self, rate)

    monkeypatch.setattr(step.TrainingStep, "accumulate", counting)
    monkeypatch.setattr(step.TrainingStep, "update", rating)
    return seen


def weights(desk: Desk) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in desk.model.module.parameters()])


def limited(desk: Desk, rows: int) -> memory.Limits:
    whole = memory.whole_batches(desk.spec.model.max_length)
    return replace(whole, train=replace(whole.train, full_rows=rows, budget=0.0))


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_batch_is_the_same_however_it_is_split(
    desk: Desk, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        desk.model.planner, "limits", memory.whole_batches(desk.spec.model.max_length)
    )
    whole = desk.fit(model=NO_DROPOUT, pairs=70, batch_size=16, epochs=1)
    at_once = weights(desk)
    monkeypatch.setattr(desk.model.planner, "limits", limited(desk, rows))
    split = desk.fit(model=NO_DROPOUT, pairs=70, batch_size=16, epochs=1)
    assert split.history[0].train_loss == pytest.approx(whole.history[0].train_loss, rel=1e-5)
    np.testing.assert_allclose(split.scores, whole.scores, atol=2e-4)
    moved = (at_once - weights(desk)).norm() / at_once.norm()
    assert moved < 1e-5


def test_steps_and_rates_do_not_hang_on_the_card(
    desk: Desk, spied: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rows in (2, 1000):
        monkeypatch.setattr(desk.model.planner, "limits", limited(desk, rows))
        desk.fit(pairs=70, batch_size=16, epochs=2, scheduler="cosine")
        found.append([tuple(entry) for entry in spied])
        spied.clear()
    assert found[0] == found[1]
    # 70 pairs are four batches of 16 and one of 6, which is trained on like the others
    assert [examples for examples, _ in found[0]] == [16, 16, 16, 16, 6] * 2
    training = desk.settings(scheduler="cosine", learning_rate=3e-3).training
    rate = learning_rates(training, 10)
    assert [used for _, used in found[0]] == [rate(number) for number in range(10)]


@pytest.mark.parametrize("size", [1, 16, 64, 500])
def test_the_batch_is_the_one_sampled(desk: Desk, spied: list[Any], size: int) -> None:
    desk.fit(pairs=70, batch_size=size, epochs=1)
    sizes = [examples for examples, _ in spied]
    assert sizes == [size] * (70 // size) + [70 % size] * (70 % size > 0)


def plain_loop(desk: Desk, steps: int, hyperparameters: Any, seed: int) -> list[float]:
    """What a textbook would write: whole batches padded to the longest, transformers' own forward,
    cross-entropy over two logits, AdamW for each tensor."""
    module, examples = desk.model.module, desk.examples
    training = hyperparameters.training
    desk.model.begin(hyperparameters)
    module.train()
    forward = ReferenceForward(module)
    optimizer = torch.optim.AdamW(parameter_groups(module, training), fused=False, foreach=False)
    pairs = desk.fold.train[: steps * training.batch_size]
    order = epoch_pairs(pairs, examples.label[pairs], None, (seed, 1, 1))
    rate = learning_rates(training, steps)
    losses = []
    for number in range(steps):
        batch = order[number * training.batch_size : (number + 1) * training.batch_size]
        tokens = examples.tokens.batch(
            examples.post[batch], examples.criterion[batch], desk.spec.model.max_length
        )
        logits = forward(Inputs.of(tokens, torch.device("cpu")))
        labels = torch.from_numpy(examples.label[batch].astype(np.int64))
        weight = torch.tensor([1.0, training.positive_weight])
        loss = torch.nn.functional.cross_entropy(logits, labels, weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), training.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_the_loss_curve_is_a_plain_loops(
    desk: Desk, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pairs in the same order, dropout off: every shortcut together changes nothing."""
    monkeypatch.setattr(desk.model.planner, "limits", limited(desk, 5))
    hyper = desk.settings(NO_DROPOUT, batch_size=8, epochs=1, positive_weight=weight)
    expected = plain_loop(desk, 12, hyper, seed=5)
    theirs = weights(desk)
    result = desk.fit(model=NO_DROPOUT, pairs=96, batch_size=8, epochs=1, positive_weight=weight)
    assert result.history[0].train_loss == pytest.approx(np.mean(expected), rel=2e-5)
    start = torch.cat([p.flatten() for p in desk.model._pristine.tensors()])
    drift = (weights(desk) - theirs).norm() / (theirs - start).norm()
    assert drift < 2e-3  # of what training changed; Adam magnifies rounding where gradients are 0


def test_a_result_does_not_hang_on_what_ran_before(desk: Desk) -> None:
    first = desk.fit(pairs=70, epochs=2)
    desk.fit(pairs=100, epochs=1, seed=9, batch_size=4, learning_rate=0.1, frozen_layers=1)
    torch.manual_seed(123)
    torch.rand(1000)
    again = desk.fit(pairs=70, epochs=2)
    assert np.array_equal(first.scores, again.scores)
    assert [epoch.train_loss for epoch in first.history] == [
        epoch.train_loss for epoch in again.history
    ]
    other = desk.fit(pairs=70, epochs=2, seed=6)
    assert not np.array_equal(first.scores, other.scores)


def test_early_stopping_keeps_the_best_epoch(desk: Desk) -> None:
    result = desk.fit(pairs=90, epochs=40, early_stopping_patience=2, learning_rate=1e-2)
    scores = [epoch.score for epoch in result.history]
    assert result.epochs < 40
    assert result.best_score == max(scores)
    assert result.best_epoch == 1 + int(np.argmax(scores))  # the first of equals
    assert result.epochs == result.best_epoch + 2
    assert [epoch.best for epoch in result.history] == list(np.maximum.accumulate(scores))
    assert result.metrics is not None
    assert result.metrics.value("average_precision") == result.best_score


def test_of_epochs_that_call_nothing_positive_the_best_ranking_is_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = iter([0.2, 0.4, 0.3])
    measure = Validation.measure

    def nothing_positive(self: Validation, scores: Any) -> Metrics:
        metrics = measure(self, scores)
        pooled = {**metrics.pooled, "f1": 0.0, "average_precision": next(ranked, 0.0)}
        return replace(metrics, pooled=pooled)

    monkeypatch.setattr(Validation, "measure", nothing_positive)
    result = desk.fit(pairs=40, epochs=3, metric="f1")
    assert result.best_score == 0.0
    assert result.best_epoch == 2


def test_epochs_are_the_ones_allowed(desk: Desk) -> None:
    result = desk.fit(pairs=40, epochs=3, early_stopping_patience=3, learning_rate=1e-12)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]


def test_the_best_weights_are_kept_and_score_the_same(desk: Desk) -> None:
    result = desk.fit(pairs=90, epochs=6, learning_rate=1e-2, keep_best=True)
    assert result.best_state is not None
    assert result.best_epoch < result.epochs
    desk.model.module.load_state_dict(dict(result.best_state), strict=True)
    desk.model.module.eval()
    validation = desk.examples.set_of(desk.fold.validation)
    scores = torch.zeros(len(validation))
    with torch.inference_mode():
        for part in desk.model.planner.plan_evaluation(validation.lengths):
            scores[part.rows] = desk.model.scores(validation.tokens(part))
    assert np.array_equal(scores.numpy(), result.scores)


def test_a_loss_that_is_no_number_names_step_and_rate(desk: Desk) -> None:
    with pytest.raises(TrialFailed, match=r"not a number in fold 1, epoch 1, step \d+ of 5") as no:
        desk.fit(
            pairs=70, batch_size=16, learning_rate=1e30, warmup_ratio=0.0, scheduler="constant"
        )
    assert no.value.cause == "nan_loss"
    assert "learning rate 1e+30" in no.value.message
    # and the next fold is none the worse for it
    assert np.isfinite(desk.fit(pairs=40).best_score)


def test_a_collapsed_model_is_told(desk: Desk) -> None:
    result = desk.fit(pairs=90, learning_rate=1e-2)
    assert result.metrics is not None
    assert not result.metrics.collapsed
    desk.model.begin(desk.settings())
    head = desk.model.module.get_submodule("classifier")
    kept = desk.model._pristine.tensors()[-2].clone()
    try:
        desk.model._pristine.tensors()[-2].zero_()  # the head's weight: every pair scores alike
        assert desk.model.parameters["classifier.weight"] is head.weight
        result = desk.fit(pairs=20, learning_rate=1e-12)
    finally:
        desk.model._pristine.tensors()[-2].copy_(kept)
    assert result.metrics is not None
    assert result.metrics.collapsed


def test_costs_add_up(desk: Desk) -> None:
    costs = desk.fit(pairs=90, epochs=2).costs
    assert {"data_s", "forward_s", "backward_s", "optimizer_s", "evaluation_s"} <= set(costs)
    spent = sum(costs[f"{phase}_s"] for phase in ("data", "forward", "backward", "optimizer"))
    assert costs["examples_per_s"] == pytest.approx(180 / spent)
    assert 0 <= costs["padding"] < 0.6
    assert all(value >= 0 for value in costs.values())


def test_padding_is_counted_as_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        desk.model.planner, "limits", memory.whole_batches(desk.spec.model.max_length)
    )
    costs = desk.fit(pairs=64, batch_size=64, epochs=1).costs
    lengths = desk.examples.set_of(desk.fold.train[:64]).lengths
    widest = -(-int(lengths.max()) // 8) * 8
    assert costs["padding"] == pytest.approx(1 - lengths.sum() / (64 * widest))


def test_progress_opens_a_fold_and_epochs_are_reported_in_order(desk: Desk) -> None:
    events: list[Event] = []

    def report(event: Event) -> Verdict:
        events.append(event)
        return Verdict.CONTINUE

    desk.fit(pairs=70, batch_size=16, epochs=2, report=report)
    assert isinstance(events[0], Progress)
    assert (events[0].phase, events[0].step, events[0].steps) == ("load", 0, 5)
    assert [e.epoch for e in events if isinstance(e, EpochReport)] == [1, 2]


def test_no_tensor_of_an_earlier_fold_is_held(desk: Desk) -> None:
    def alive() -> tuple[int, int]:
        gc.collect()
        tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
        return len(tensors), sum(t.untyped_storage().nbytes() for t in tensors)

    counts = []
    for seed in range(4):
        desk.fit(pairs=40, seed=seed, epochs=1)
        counts.append(alive())
    assert counts[1] == counts[2] == counts[3]


def test_validation_pairs_may_be_none(desk: Desk) -> None:
    """The model people take home may learn from everything."""
    result = fit(
        desk.model,
        desk.examples,
        desk.fold.train[:40],
        np.zeros(0, dtype=np.int64),
        desk.settings(epochs=3, early_stopping_patience=1),
        metric="f1",
        seed=1,
        report=quiet,
        keep_best=True,
    )
    assert (result.epochs, result.best_epoch, result.metrics) == (3, 3, None)
    assert result.best_state is not None


class Interrupt:
    """Answers one report with YIELD, then everything with CONTINUE."""

    def __init__(self, at: Callable[[Event], bool]) -> None:
        self.at = at
        self.done = False
        self.events: list[Event] = []

    def __call__(self, event: Event) -> Verdict:
        self.events.append(event)
        if not self.done and self.at(event):
            self.done = True
            return Verdict.YIELD
        return Verdict.CONTINUE


def in_step(number: int) -> Callable[[Event], bool]:
    return lambda event: (
        isinstance(event, Progress)
        and event.phase == "train"
        and (
            event.epoch,
            event.step,
        )
        == (2, number)
    )


PLACES: dict[str, Callable[[Event], bool]] = {
    "at the start": lambda event: isinstance(event, Progress),
    "in an epoch": in_step(3),
    "after its last step": in_step(5),
    "in the evaluation": lambda event: (
        isinstance(event, Progress) and event.phase == "eval" and event.epoch == 2
    ),
    "after an epoch": lambda event: isinstance(event, EpochReport) and event.epoch == 2,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keep_best", [False, True])
def test_going_on_ends_bit_equal(
    desk: Desk, tmp_path: Path, place: str, keep_best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("criteria_cli.training.loop.PROGRESS_S", 0.0)
    settings: dict[str, Any] = {"pairs": 70, "batch_size": 16, "epochs": 3, "learning_rate": 1e-3}
    undisturbed = desk.fit(**settings, keep_best=keep_best)
    expected = weights(desk)
    best = {name: value.clone() for name, value in (undisturbed.best_state or {}).items()}
    checkpoints = Checkpoints(tmp_path, 1, "f")
    interrupt = Interrupt(PLACES[place])
    first = desk.fit(**settings, checkpoints=checkpoints, report=interrupt, keep_best=keep_best)
    assert first.verdict is Verdict.YIELD
    desk.fit(pairs=30, seed=77, learning_rate=0.05)  # another trial in between
    second = desk.fit(**settings, checkpoints=checkpoints, report=interrupt, keep_best=keep_best)
    assert second.verdict is Verdict.CONTINUE
    assert torch.equal(weights(desk), expected)
    assert np.array_equal(second.scores, undisturbed.scores)
    assert [(e.epoch, e.score, e.train_loss) for e in second.history] == [
        (e.epoch, e.score, e.train_loss) for e in undisturbed.history
    ]
    for name, value in (second.best_state or {}).items():
        assert torch.equal(value, best[name]), name
    trained = [e.epoch for e in interrupt.events if isinstance(e, EpochReport)]
    assert trained == [1, 2, 3]


def test_stop_ends_at_once(desk: Desk) -> None:
    def report(event: Event) -> Verdict:
        return Verdict.STOP if isinstance(event, EpochReport) else Verdict.CONTINUE

    result = desk.fit(pairs=70, epochs=5, report=report)
    assert (result.verdict, result.epochs) == (Verdict.STOP, 1)
