"""One fold: epochs of exact batches, evaluation, early stopping, and going on after a crash."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criteria_cli.errors import TrialFailed
from criteria_cli.study.spec import Hyperparameters
from criteria_cli.study.trial import EpochReport, Progress, Report, Verdict
from criteria_cli.training.augmented import Augmented
from criteria_cli.training.batches import MicroBatch
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.epoch_losses import EpochLosses
from criteria_cli.training.examples import Examples, ExampleSet
from criteria_cli.training.losses import build_loss
from criteria_cli.training.metrics import Metrics
from criteria_cli.training.optimizer import learning_rates
from criteria_cli.training.position import Position, Saver
from criteria_cli.training.replay import Attempt, run_batch
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.sampling import epoch_pairs, pairs_per_epoch
from criteria_cli.training.seeds import seed_step
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.tokens import Integers
from criteria_cli.training.validation import Validation

Phase = Literal["load", "train", "eval", "save"]

_log = logging.getLogger(__name__)

PROGRESS_S = 2.0
"""Seconds between signs of life."""


@dataclass(frozen=True)
class FitResult:
    """How a fit ended."""

    verdict: Verdict
    """CONTINUE: trained to its end. Otherwise what a report was answered, and the rest is what
    there was until then."""
    best_score: float
    best_epoch: int
    """The epoch with the best score; the last one without validation pairs."""
    epochs: int
    """Epochs that ran."""
    scores: NDArray[np.float32]
    """(validation pairs,) log-odds at the best epoch."""
    metrics: Metrics | None
    """At the best epoch; None if no epoch ended or nothing was held out."""
    history: tuple[EpochReport, ...]
    costs: Mapping[str, float]
    best_state: Mapping[str, Tensor] | None
    """Weights of the best epoch by name, on the host, if asked for. The next fit overwrites
    them."""


class _Told(Exception):
    """A report was answered with something else than to go on."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def fit(
    model: ResidentModel,
    examples: Examples,
    train: Integers,
    validation: Integers,
    hyperparameters: Hyperparameters,
    *,
    metric: str,
    seed: int,
    report: Report,
    fold: int = 1,
    checkpoints: Checkpoints | None = None,
    keep_best: bool = False,
    augmented: Augmented | None = None,
) -> FitResult:
    """Train a model on some pairs and score it on others after each epoch.

    The result is a function of the arguments that are data: what ran before in the process, where
    it was interrupted and how its batches were split leave no trace in it (the last up to
    rounding).

    Args:
        model: whose pristine weights are the start.
        train: indices of the pairs to learn from.
        validation: indices of the pairs that choose the epoch. None of them, and every epoch
            runs, the last is the best.
        metric: what an epoch is judged by.
        seed: the trial's; with `fold`, it decides order and dropout.
        report: hears of each epoch and, now and then, of progress.
        checkpoints: where to go on from and to save to.
        keep_best: whether to keep the weights of the best epoch.
        augmented: rewritten posts of training pairs.

    Raises:
        TrialFailed: `nan_loss`, `cuda_oom`, or `disk`.
    """
    return _Fit(
        model, examples, train, validation, hyperparameters, metric, seed, report, fold,
        checkpoints, keep_best, augmented,
    ).run()  # fmt: skip


class _Fit:
    def __init__(
        self,
        model: ResidentModel,
        examples: Examples,
        train: Integers,
        validation: Integers,
        hyperparameters: Hyperparameters,
        metric: str,
        seed: int,
        report: Report,
        fold: int,
        checkpoints: Checkpoints | None,
        keep_best: bool,
        augmented: Augmented | None,
    ) -> None:
        self.clock = PhaseClock(model.device.torch_device)
        self.model = model
        self.examples = examples
        self.train = np.asarray(train, dtype=np.int64)
        self.validation = Validation(model, examples, validation)
        self.training = hyperparameters.training
        self.metric = metric
        self.seed = seed
        self.report = report
        self.fold = fold
        self.keep_best = keep_best
        self.augmented = augmented

        labels = examples.label[self.train]
        ratio = self.training.negatives_per_positive
        self.per_epoch = pairs_per_epoch(labels, ratio)
        self.steps = math.ceil(self.per_epoch / self.training.batch_size)
        self.rate = learning_rates(self.training, self.training.epochs * self.steps)
        optimizer = model.begin(hyperparameters)
        positives = int(labels.sum())
        self.loss = build_loss(self.training, positives, len(labels) - positives)
        self.step = TrainingStep(model, optimizer, self.training, self.loss, self.clock)
        self.saver = Saver(checkpoints, model, self.step, keep_best=keep_best)
        self.position = Position()
        self.losses = EpochLosses(
            self.steps, self.training.batch_size, self.per_epoch, model.device.torch_device
        )
        self.best_scores = np.zeros(len(self.validation), dtype=np.float32)
        self.reported_at = time.monotonic()

    def run(self) -> FitResult:
        self._go_on()
        try:
            self._progress("load")
            while not self._finished():
                self._epoch()
        except _Told as told:
            if told.verdict is Verdict.YIELD:
                self._save()
            return self._result(told.verdict)
        return self._result(Verdict.CONTINUE)

    # -- one epoch ---------------------------------------------------------------------------

    def _epoch(self) -> None:
        started = time.monotonic()
        self._train()
        position = self.position
        train_loss = self._mean_loss()
        score = self._evaluate()
        position.history.append(
            EpochReport(
                fold=self.fold,
                epoch=position.epoch,
                score=score,
                best=position.best_score,
                train_loss=train_loss,
                seconds=time.monotonic() - started,
            )
        )
        position.epoch += 1
        position.step = 0
        self.losses.begin()
        # a fold that is over has its results written next, which a checkpoint would only delay
        if not self._finished() and self.saver.cheap():
            self._save()
        self._listen(self.report(position.history[-1]))

    def _train(self) -> None:
        position, size = self.position, self.training.batch_size
        pairs = epoch_pairs(
            self.train,
            self.examples.label[self.train],
            self.training.negatives_per_positive,
            (self.seed, self.fold, position.epoch),
        )
        posts = None
        if self.augmented is not None:
            posts = self.augmented.posts(pairs, (self.seed, self.fold, position.epoch))
        epoch = self.examples.set_of(pairs, posts)
        self.model.module.train()
        self.clock.lap("data")
        while position.step < self.steps:
            self._batch(epoch[position.step * size : (position.step + 1) * size])
            self._sign_of_life("train")
            if self.saver.due():
                self._save()

    def _batch(self, batch: ExampleSet) -> None:
        position = self.position
        seed_step(self.seed, self.fold, position.epoch, position.step)
        lengths, rows = batch.lengths, batch.rows
        weight = float(self.loss.weights(torch.from_numpy(batch.labels.astype(np.float64))).sum())

        def accumulate(plan: Attempt) -> tuple[Tensor, Sequence[MicroBatch]]:
            return self.step.accumulate(batch.micro_batches(plan), weight), plan.plan

        loss, plan = run_batch(
            lengths,
            accumulate,
            planner=self.model.planner,
            device=self.model.device,
            parameters=self.step.parameters,
            rows=rows,
        )
        self.losses.put(position.step, loss)
        done = (position.epoch - 1) * self.steps + position.step
        self.step.update(self.rate(done))
        position.step += 1
        position.pairs += len(batch)
        position.tokens += int((lengths if rows is None else lengths * rows).sum())
        position.padded_tokens += sum(part.device_rows * part.length for part in plan)

    def _evaluate(self) -> float:
        """The epoch's score; keeps what belongs to the best one."""
        position = self.position
        if not len(self.validation):
            position.best_epoch, position.best_score = position.epoch, 0.0
            self._take_best()
            return 0.0
        scores = self.validation.score(lambda: self._sign_of_life("eval"))
        metrics = self.validation.measure(scores)
        score, ranking = metrics.value(self.metric), metrics.value("average_precision")
        # a short training may call nothing positive for epochs, while it already ranks better
        if (score, ranking) > (position.best_score, position.best_ranking):
            position.best_score, position.best_ranking = score, ranking
            position.best_epoch = position.epoch
            self.best_scores = scores
            self._take_best()
        self.clock.lap("evaluation")
        return score

    def _take_best(self) -> None:
        if self.keep_best:
            self.model.keep_best()

    def _finished(self) -> bool:
        position, patience = self.position, self.training.early_stopping_patience
        if position.epoch > self.training.epochs:
            return True
        waited = position.epoch - 1 - position.best_epoch
        return len(self.validation) > 0 and position.best_epoch > 0 and waited >= patience

    # -- what others see ---------------------------------------------------------------------

    def _listen(self, verdict: Verdict) -> None:
        if verdict is not Verdict.CONTINUE:
            raise _Told(verdict)

    def _sign_of_life(self, phase: Phase) -> None:
        if time.monotonic() - self.reported_at >= PROGRESS_S:
            self._progress(phase)

    def _progress(self, phase: Phase) -> None:
        position = self.position
        self.reported_at = time.monotonic()
        elapsed = sum(self.clock.seconds().values())
        progress = Progress(
            fold=self.fold,
            epoch=position.epoch,
            phase=phase,
            step=position.step,
            steps=self.steps,
            loss=self._mean_loss() if position.step else None,
            examples_per_s=position.pairs / elapsed if position.pairs else None,
            memory_bytes=self.model.device.peak().reserved,
        )
        self._listen(self.report(progress))

    def _mean_loss(self) -> float:
        """Of the epoch's pairs so far. Waits for the device.

        Raises:
            TrialFailed: `nan_loss`, a step's loss is not a number.
        """
        position = self.position
        step = self.losses.first_bad(position.step)
        if step is not None:
            rate = self.rate((position.epoch - 1) * self.steps + step)
            raise TrialFailed(
                "nan_loss",
                f"the loss is not a number in fold {self.fold}, epoch {position.epoch}, "
                f"step {step + 1} of {self.steps}, at learning rate {rate:.3g}",
                hint="lower `training.learning_rate`, or set `training.precision` to `fp32`",
            )
        return self.losses.mean(position.step)

    def _result(self, verdict: Verdict) -> FitResult:
        position = self.position
        metrics = None
        if len(self.validation) and position.best_epoch:
            metrics = self.validation.measure(self.best_scores)
        return FitResult(
            verdict=verdict,
            best_score=max(position.best_score, 0.0),
            best_epoch=position.best_epoch,
            epochs=len(position.history),
            scores=self.best_scores,
            metrics=metrics,
            history=tuple(position.history),
            costs=self._costs(),
            best_state=self.model.best_state() if self.keep_best and position.best_epoch else None,
        )

    def _costs(self) -> dict[str, float]:
        position, seconds = self.position, self.clock.seconds()
        training = sum(
            seconds[f"{phase}_s"] for phase in ("data", "forward", "backward", "optimizer")
        )
        padded = position.padded_tokens
        return seconds | {
            "examples_per_s": position.pairs / training if training else 0.0,
            "tokens_per_s": position.tokens / training if training else 0.0,
            "padding": 1.0 - position.tokens / padded if padded else 0.0,
        }

    # -- going on ----------------------------------------------------------------------------

    def _save(self) -> None:
        self.clock.lap("data")
        self.position.costs = self.clock.seconds()
        self.saver.save(self.position, self.losses.until(self.position.step), self.best_scores)
        self.clock.lap("store")

    def _go_on(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = self.saver.take_up()
        if found is not None:
            self.position, losses, self.best_scores = found
            self.losses.restore(losses)
            self.clock.add(self.position.costs)
            _log.info("fold %d goes on in epoch %d", self.fold, self.position.epoch)
        self.clock.lap("start")
