"""`criteria train`: one configuration, an honest estimate of it, and the model on all data.

For each fold a model learns from a part of the fold's training pairs; the rest of them, the inner
pairs, choose the epoch and fit temperature and thresholds; only then is the fold's validation part
scored. The model people take home learns from all pairs, for as many epochs as the folds' models
did in the middle, and is calibrated on the folds' held-out scores.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from criteria_cli.data.evidence import find_evidence
from criteria_cli.data.folds import Fold, inner_split
from criteria_cli.errors import MachineError, Saved
from criteria_cli.study.durable import private_folder
from criteria_cli.study.file_locks import held_alone
from criteria_cli.study.final import TrainedModel, TrainOrder
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import Hyperparameters
from criteria_cli.study.trial import EpochReport, Event, FoldReport, Progress, Report, Verdict
from criteria_cli.training.calibration import fit_calibration
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.estimates import (
    collapsed,
    estimates,
    final_calibration,
    fold_metrics,
)
from criteria_cli.training.evidence_scores import evidence_score, sentence_weights
from criteria_cli.training.export import ModelRecord, check_target, write_model
from criteria_cli.training.heldout import HeldOut
from criteria_cli.training.loop import FitResult
from criteria_cli.training.record import nested_means, training_record
from criteria_cli.training.scoring import put_weights, score_pairs, score_texts
from criteria_cli.training.tokens import Integers
from criteria_cli.training.trainer import Trainer

INNER = 0.15
"""The share of a fold's training pairs that choose epoch, temperature and thresholds."""
EVIDENCE_PAIRS = 60
"""Annotated pairs of a fold whose sentences are weighed: enough for two digits over five folds."""


def train(order: TrainOrder, report: Report) -> TrainedModel:
    """Fine-tune one configuration and write the model directory.

    Stopped, it goes on when it is ordered again: finished folds are on disk, and a fold in the
    middle has a checkpoint.

    Args:
        report: hears the events of a trial, the final model as the fold after the last; YIELD or
            STOP saves and ends.

    Raises:
        UsageError: data, model or target cannot be used.
        MachineError: no such device, or another process trains the same.
        TrialFailed: training failed, with its cause.
        Saved: `report` asked to stop; everything is saved.
    """
    return _Training(order, report).run_alone()


class _Training:
    def __init__(self, order: TrainOrder, report: Report) -> None:
        check_target(order.out, overwrite=order.overwrite)
        private_folder(order.directory)
        self.order = order
        self.report = report
        self.started = time.monotonic()
        self.trainer = Trainer(
            TrainerSetup(
                spec=order.spec,
                base=order.base,
                directory=order.directory,
                device=order.device,
                threads=order.threads,
            )
        )
        self.corpus = self.trainer.corpus

    def run_alone(self) -> TrainedModel:
        """`run`, unless another process is at the same folds: both would write their files."""
        folder, _ = self._place(self.order.hyperparameters)
        private_folder(folder)
        with held_alone(folder / ".lock") as alone:
            if not alone:
                raise MachineError(
                    f"another `criteria train` with these settings is at work in "
                    f"`{self.order.directory.name}/{folder.name}`",
                    hint="wait for it, or end it: what it has trained is taken up",
                    code="machine.busy",
                )
            return self.run()

    def run(self) -> TrainedModel:
        folds = [self._fold(fold) for fold in self.trainer.folds]
        found = estimates(
            self.corpus,
            folds,
            nested_means=nested_means(self.order),
            search_score=self.order.search_score,
        )
        epochs = self._final_epochs(folds)
        self._fit_on_everything(epochs, fold=len(folds) + 1)
        seconds = time.monotonic() - self.started
        record = training_record(self.order, self.trainer, found, epochs, seconds)
        encoder = self.trainer.model(self.order.hyperparameters.model).encoder
        content = ModelRecord(
            criteria=tuple(
                self.corpus.criteria[index] for index in np.unique(self.corpus.criterion)
            ),
            input=self.order.hyperparameters.model,
            head=encoder.head,
            calibration=final_calibration(self.corpus, folds),
            report=record,
        )
        write_model(self.order.out, encoder, content, overwrite=self.order.overwrite)
        return TrainedModel(
            model_dir=self.order.out,
            metrics={
                name: found[name]
                for name in (
                    "nested",
                    "intervals",
                    "optimistic",
                    "at_one_half",
                    "search",
                    "collapsed_folds",
                    "evidence",
                    "abstaining",
                )
            },
            per_criterion=found["per_criterion"],
            folds=tuple(found["folds"]),
            seconds=time.monotonic() - self.started,
            report=record,
        )

    # -- folds -------------------------------------------------------------------------------

    def _fold(self, fold: Fold) -> HeldOut:
        chosen = self.order.chosen_without
        settings = self.order.hyperparameters if chosen is None else chosen[fold.number - 1]
        folder, fingerprint = self._place(settings)
        done = HeldOut.load(folder, fold.number, fingerprint)
        if done is None:
            done = self._train_fold(fold, settings, folder, fingerprint)
            done.save(folder, fingerprint)
            self._checkpoints(folder, fold.number, fingerprint).discard()
        self._tell(done)
        return done

    def _train_fold(
        self, fold: Fold, settings: Hyperparameters, folder: Path, fingerprint: str
    ) -> HeldOut:
        seed = self.order.seed
        inner = inner_split(self.corpus, fold.train, INNER, seed + fold.number)
        result = self.trainer.fit(
            settings,
            inner.train,
            inner.validation,
            fold=fold.number,
            seed=seed,
            report=_yielding(self.report),
            checkpoints=self._checkpoints(folder, fold.number, fingerprint),
            keep_best=True,
        )
        self._go_on(result)
        model = self.trainer.model(settings.model)
        examples = self.trainer.examples(settings.model)
        assert result.best_state is not None
        put_weights(model, result.best_state)
        held = inner.validation
        calibration = fit_calibration(
            score_pairs(model, examples.set_of(held)),
            self.corpus.label[held],
            self.corpus.criterion[held],
            examples.criteria,
        )
        return HeldOut(
            fold=fold.number,
            pairs=fold.validation,
            scores=score_pairs(model, examples.set_of(fold.validation)),
            calibration=calibration,
            inner_pairs=len(held),
            best_epoch=result.best_epoch,
            epochs=result.epochs,
            costs=result.costs,
            evidence=self._evidence(settings, fold.validation),
        )

    def _evidence(self, settings: Hyperparameters, pairs: Integers) -> dict[str, float] | None:
        """How often the sentence that matters most is an annotated one."""
        places = find_evidence(self.corpus, pairs).spans
        model = self.trainer.model(settings.model)
        examples = self.trainer.examples(settings.model)
        found = []
        for pair in _spread(sorted(places), EVIDENCE_PAIRS):
            text = self.corpus.texts[self.corpus.post[pair]]
            criterion = int(self.corpus.criterion[pair])

            def score(texts: Sequence[str], criterion: int = criterion) -> Any:
                return score_texts(model, examples, texts, criterion)

            found.append((sentence_weights(text, score), places[pair]))
        result = evidence_score(found)
        return None if result is None else asdict(result)

    def _tell(self, fold: HeldOut) -> None:
        metrics = fold_metrics(self.corpus, fold)
        self._listen(
            FoldReport(
                fold=fold.fold,
                score=metrics.value(self.order.spec.validation.metric),
                best_epoch=fold.best_epoch,
                epochs=fold.epochs,
                metrics={**metrics.pooled, "collapsed": float(collapsed(fold))},
                per_criterion=metrics.per_criterion,
                costs=fold.costs,
            )
        )

    # -- all data ----------------------------------------------------------------------------

    def _final_epochs(self, folds: Sequence[HeldOut]) -> int:
        """The median of the folds' best epochs, of those with the final settings if there are."""
        chosen = self.order.chosen_without
        same = [
            fold.best_epoch
            for fold in folds
            if chosen is None or chosen[fold.fold - 1] == self.order.hyperparameters
        ]
        return max(1, round(median(same or [fold.best_epoch for fold in folds])))

    def _fit_on_everything(self, epochs: int, fold: int) -> None:
        """Train on all pairs; the learning-rate schedule is that of the folds, cut off."""
        settings = self.order.hyperparameters
        folder, fingerprint = self._place(settings)
        checkpoints = self._checkpoints(folder, fold, f"{fingerprint} {epochs}")
        result = self.trainer.fit(
            settings,
            np.arange(len(self.corpus), dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            fold=fold,
            seed=self.order.seed,
            report=_until(epochs, self.report),
            checkpoints=checkpoints,
            keep_best=True,
        )
        if result.epochs < epochs:
            self._go_on(result)
        assert result.best_state is not None
        put_weights(self.trainer.model(settings.model), result.best_state)
        checkpoints.discard()
        self._listen(
            FoldReport(fold, score=0.0, best_epoch=epochs, epochs=epochs, costs=result.costs),
            last=True,
        )

    # -- going on ----------------------------------------------------------------------------

    def _place(self, settings: Hyperparameters) -> tuple[Path, str]:
        """The folder of what is trained with these settings, and the fingerprint of it."""
        whole = f"{self.trainer.fingerprint(settings, self.order.seed)} {INNER}"
        fingerprint = hashlib.sha256(whole.encode()).hexdigest()
        return self.order.directory / f"train-{fingerprint[:12]}", fingerprint

    def _checkpoints(self, folder: Path, fold: int, fingerprint: str) -> Checkpoints:
        private_folder(folder)
        return Checkpoints(folder / "checkpoints", fold, fingerprint)

    def _go_on(self, result: FitResult) -> None:
        if result.verdict is not Verdict.CONTINUE:
            raise _saved()

    def _listen(self, event: Event, *, last: bool = False) -> None:
        if self.report(event) is not Verdict.CONTINUE and not last:
            raise _saved()


def _until(epochs: int, report: Report) -> Report:
    """A report that ends a fit after so many epochs, wherever it had been interrupted."""

    def listen(event: Event) -> Verdict:
        match event:
            case Progress() if event.epoch > epochs:
                return Verdict.STOP
            case EpochReport() if event.epoch >= epochs:
                report(event)
                return Verdict.STOP
        return going_on(event)

    going_on = _yielding(report)
    return listen


def _yielding(report: Report) -> Report:
    """A report whose STOP saves too: here nothing is pruned."""

    def listen(event: Event) -> Verdict:
        verdict = report(event)
        return Verdict.YIELD if verdict is Verdict.STOP else verdict

    return listen


def _saved() -> Saved:
    return Saved(
        "stopped, everything is saved",
        hint="run the same command again to go on",
        code="saved.train",
    )


def _spread(pairs: Sequence[int], most: int) -> list[int]:
    """At most `most` of some pairs, evenly over them: the same ones every time."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[place * len(pairs) // most] for place in range(most)]
