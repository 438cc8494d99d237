"""What a trainer keeps for its whole life, and how it trains a trial with it."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from criteria_cli import __version__
from criteria_cli.data.folds import Fold, split
from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import CriteriaError, TrialFailed, UsageError
from criteria_cli.study.attempts import unless_superseded
from criteria_cli.study.messages import Learned, Ready, TrainerSetup
from criteria_cli.study.spec import LOCAL_KEYS, Hyperparameters, ModelSpec, StudySpec, flatten
from criteria_cli.study.trial import FoldReport, Outcome, Report, TrialRun, Verdict
from criteria_cli.training.augmentation import Rewritten, Variants, rewritten
from criteria_cli.training.capabilities import refuse_unusable
from criteria_cli.training.checkpoint import Checkpoints
from criteria_cli.training.devices import precision_for
from criteria_cli.training.examples import Examples
from criteria_cli.training.loaded import CACHE, Shelf
from criteria_cli.training.loop import FitResult, fit
from criteria_cli.training.opening import open_device
from criteria_cli.training.replay import is_out_of_memory
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.results import TrialFolder
from criteria_cli.training.tf32 import settle_tf32
from criteria_cli.training.threads import cores, settle
from criteria_cli.training.tokens import Integers


class Trainer:
    """Data, folds, tokens, one model and a device, kept from trial to trial.

    Args:
        learn: hears of memory models that were measured or lowered.

    Raises:
        CriteriaError: the data, the model or the device cannot be used.
    """

    def __init__(
        self, setup: TrainerSetup, learn: Callable[[Learned], None] = lambda _: None
    ) -> None:
        settle(setup.threads)
        self.setup = setup
        self.spec = setup.spec
        self.device = open_device(setup.device)
        self.precision = precision_for(self.device, self.spec.training.precision)
        settle_tf32(self.device.kind, self.device.name, self.precision)
        self.corpus = load_corpus(self.spec.data, setup.base)
        self.folds = split(self.corpus, self.spec.validation)
        self._shelf = Shelf(setup, self.device, self.precision, self.corpus, learn)
        self._variants = Variants(
            self.corpus, setup.directory / CACHE, self.device, self.spec.validation.seed
        )
        refuse_unusable(self._shelf.take(self.spec.model).model.encoder, self.spec)

    def ready(self) -> Ready:
        """What the supervisor is told when everything is in place."""
        cut = self.examples(self.spec.model).cut()
        return Ready(
            device=self.device.name,
            precision=self.precision,
            pairs=len(self.corpus),
            data_sha256=self.corpus.sha256,
            versions={
                "criteria": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "transformers": version("transformers"),
                "model": self._shelf.take(self.spec.model).model.encoder.source,
            },
            cut_posts=cut.posts,
            unread=cut.unread,
        )

    def run_trial(
        self,
        spec: StudySpec,
        hyperparameters: Hyperparameters,
        *,
        report: Report,
        run: TrialRun | None = None,
    ) -> Outcome:
        """Train every fold that is not finished; see `study.trial.RunTrial`.

        Finished folds found on disk are reported again, in order, and so is the last epoch before
        an interruption: whoever listens may have died before hearing of them.

        Raises:
            TrialFailed: with its cause.
        """
        if spec.identity() != self.spec.identity():
            raise TrialFailed("error", "the trial belongs to another study than the trainer")
        if run is not None:
            return self._guarded(hyperparameters, report, run)
        with tempfile.TemporaryDirectory(prefix="criteria-") as folder:
            return self._guarded(hyperparameters, report, TrialRun(0, 0, Path(folder)))

    def _guarded(self, hyperparameters: Hyperparameters, report: Report, run: TrialRun) -> Outcome:
        try:
            return unless_superseded(
                run, lambda through: self._run(hyperparameters, report, run, through)
            )
        except UsageError as error:  # a sampled value that this model cannot take
            raise TrialFailed("model", error.message, hint=error.hint) from error
        except CriteriaError:
            raise
        except OSError as error:
            raise TrialFailed("disk", f"results cannot be written: {error.strerror}") from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise TrialFailed(
                    "cuda_oom", f"{self.device.name} has too little memory for the model itself"
                ) from error
            if "CUDA error" in str(error):
                raise TrialFailed("device", f"{self.device.name} stopped working") from error
            raise

    def fit(
        self,
        hyperparameters: Hyperparameters,
        train: Integers,
        validation: Integers,
        *,
        fold: int,
        seed: int,
        report: Report,
        checkpoints: Checkpoints | None = None,
        keep_best: bool = False,
    ) -> FitResult:
        """Train the model that `hyperparameters` name on some pairs; see `loop.fit`.

        Where augmentation is on, the evidence of positive pairs among `train` is rewritten.
        """
        loaded = self._shelf.take(hyperparameters.model)
        rewritten = self._rewritten(hyperparameters, train)
        loaded.admission.renew()
        try:
            with self.device.use():
                result = fit(
                    loaded.model,
                    rewritten.examples,
                    train,
                    validation,
                    hyperparameters,
                    metric=self.spec.validation.metric,
                    seed=seed,
                    report=report,
                    fold=fold,
                    checkpoints=checkpoints,
                    keep_best=keep_best,
                    augmented=rewritten.augmented,
                )
        finally:
            self._shelf.tell(loaded.admission)
        counts = rewritten.counts(seed, fold, result.epochs)
        return replace(result, costs={**result.costs, **counts})

    def _rewritten(self, hyperparameters: Hyperparameters, train: Integers) -> Rewritten:
        examples = self.examples(hyperparameters.model)
        if not hyperparameters.augmentation.enable:
            return Rewritten(examples)
        with self.device.use():
            made = self._variants.of(train, hyperparameters.augmentation)
        tokenizer = self.model(hyperparameters.model).encoder.tokenizer
        return rewritten(examples, made, hyperparameters.augmentation.probability, tokenizer)

    def model(self, spec: ModelSpec) -> ResidentModel:
        """The resident model of `spec`, with the weights that the last fit left."""
        return self._shelf.take(spec).model

    def _run(
        self, hyperparameters: Hyperparameters, report: Report, run: TrialRun, through: Path
    ) -> Outcome:
        fingerprint = self.fingerprint(hyperparameters, run.seed)
        folder = TrialFolder(run.directory, fingerprint, through=through)
        elsewhere = {fold.fold: fold for fold in run.finished}  # on a machine with another disk

        def known(fold: Fold) -> FoldReport | None:
            return folder.load_fold(fold.number) or elsewhere.get(fold.number)

        finished: list[FoldReport] = []
        verdict = Verdict.CONTINUE
        for fold in self.folds:
            done = known(fold)
            if done is None:
                checkpoints = Checkpoints(
                    run.directory / "checkpoints", fold.number, fingerprint, through=through
                )
                result = self.fit(
                    hyperparameters,
                    fold.train,
                    fold.validation,
                    fold=fold.number,
                    seed=run.seed,
                    report=report,
                    checkpoints=checkpoints,
                )
                if result.verdict is not Verdict.CONTINUE:
                    return self._end(folder, hyperparameters, result.verdict, finished)
                done = _fold_report(fold, result)
                folder.save_fold(done, result.history, fold.validation, result.scores)
                checkpoints.discard()
            finished.append(done)
            verdict = report(done)
            if verdict is Verdict.STOP:
                finished += _unbroken(map(known, self.folds[len(finished) :]))
            if verdict is not Verdict.CONTINUE:
                break
        whole = len(finished) == len(self.folds)
        end = Verdict.CONTINUE if whole else verdict
        return self._end(folder, hyperparameters, end, finished)

    def _end(
        self,
        folder: TrialFolder,
        hyperparameters: Hyperparameters,
        verdict: Verdict,
        finished: Sequence[FoldReport],
    ) -> Outcome:
        outcome = Outcome(
            state=_STATES[verdict],
            score=float(np.mean([fold.score for fold in finished])) if finished else None,
            folds=tuple(finished),
        )
        if verdict is not Verdict.YIELD:
            folder.save_result(outcome, hyperparameters.to_json())
        return outcome

    def examples(self, spec: ModelSpec) -> Examples:
        """The corpus's pairs as the model of `spec` reads them."""
        return self._shelf.take(spec).examples(self.corpus, spec)

    def fingerprint(self, hyperparameters: Hyperparameters, seed: int) -> str:
        """Of everything that a fold's result depends on."""
        settings = {
            key: value for key, value in flatten(hyperparameters.to_json()) if key not in LOCAL_KEYS
        }
        content: dict[str, Any] = {
            "settings": settings,
            "validation": self.spec.validation.model_dump(mode="json"),
            "data": self.corpus.sha256,
            "model": self._shelf.take(hyperparameters.model).model.encoder.source,
            "precision": self.precision,
            "seed": seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unbroken(known: Iterable[FoldReport | None]) -> list[FoldReport]:
    """Folds that are finished although the trial was stopped before: an earlier worker had gone on
    without an answer, and died before its reports were heard."""
    found: list[FoldReport] = []
    for fold in known:
        if fold is None:
            break
        found.append(fold)
    return found


_STATES: dict[Verdict, Any] = {
    Verdict.CONTINUE: "complete",
    Verdict.STOP: "pruned",
    Verdict.YIELD: "yielded",
}


def _fold_report(fold: Fold, result: FitResult) -> FoldReport:
    assert result.metrics is not None, "a fold without validation pairs"
    return FoldReport(
        fold=fold.number,
        score=result.best_score,
        best_epoch=result.best_epoch,
        epochs=result.epochs,
        metrics={**result.metrics.pooled, "collapsed": float(result.metrics.collapsed)},
        per_criterion=result.metrics.per_criterion,
        costs=result.costs,
        reliability=result.metrics.reliability,
    )


def run_trial(
    spec: StudySpec,
    hyperparameters: Hyperparameters,
    *,
    report: Report,
    run: TrialRun | None = None,
    base: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Outcome:
    """Train one trial in this process, without a supervisor; see `study.trial.RunTrial`.

    Args:
        base: the folder that relative data paths start from; the working directory by default.
        device: `auto`, `cpu` or `cuda:N`.
        threads: of torch while it runs; as many as this process has cores by default. On a
            processor, results are the same to the bit only with the same number.

    Raises:
        CriteriaError: the data, the model or the device cannot be used, or the trial failed.
    """
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="criteria-") as scratch:
        setup = TrainerSetup(
            spec=spec,
            base=base or Path.cwd(),
            directory=Path(scratch) if run is None else run.directory.parent,
            device=device,
            threads=cores() if threads is None else threads,
        )
        try:
            return Trainer(setup).run_trial(spec, hyperparameters, report=report, run=run)
        finally:
            torch.set_num_threads(before)
