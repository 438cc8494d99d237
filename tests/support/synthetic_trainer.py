"""A trainer without a model: scores are a formula, epochs take 20 ms, files are real.

Run as a script it serves like `criteria_cli.training.serve`; tests name it in `CRITERIA_TRAINER`.
`SYNTHETIC_EPOCH_S` sets the time of an epoch, `SYNTHETIC_FAIL=CAUSE:N,M` fails these trials (`*`
for all), `SYNTHETIC_DEVICE` the name it gives its device, `SYNTHETIC_PRECISION` what it computes
in, `SYNTHETIC_COLLAPSED` that its models say the same of every pair.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

from criteria_cli.errors import MachineError, TrialFailed, UsageError
from criteria_cli.failpoints import failpoint
from criteria_cli.study.attempts import unless_superseded
from criteria_cli.study.durable import read_json, write_json
from criteria_cli.study.messages import Ready, TrainerSetup
from criteria_cli.study.spec import Hyperparameters, StudySpec
from criteria_cli.study.trial import (
    EpochReport,
    FoldReport,
    Outcome,
    Progress,
    Report,
    TrialRun,
    Verdict,
)
from criteria_cli.training.serve import ABANDONED, serve

EPOCH_S = float(os.environ.get("SYNTHETIC_EPOCH_S", "0.02"))
COLLAPSED = float("SYNTHETIC_COLLAPSED" in os.environ)
BULK = "x" * 10_000


def score_of(learning_rate: float, seed: int, fold: int, epoch: int) -> float:
    """A score that only depends on its arguments, best at a learning rate of 3e-5."""
    distance = math.log10(learning_rate) - math.log10(3e-5)
    noise = random.Random(f"{seed}:{fold}:{epoch}").gauss(0, 0.01)
    return max(0.0, 0.6 * math.exp(-(distance**2)) * (1 - math.exp(-epoch)) + 0.02 * fold + noise)


class SyntheticTrainer:
    def __init__(self, setup: TrainerSetup) -> None:
        self.setup = setup
        failpoint("trainer.start")
        refusal = os.environ.get("SYNTHETIC_REFUSE")
        if refusal == "deaf once" and not Path("deaf").exists():
            Path("deaf").touch()
            os._exit(ABANDONED)
        if refusal == "machine":
            raise MachineError("no package `nothing`", code="machine.package")
        if refusal == "usage":
            raise UsageError("model `nothing` was not found", code="model.missing")

    def ready(self) -> Ready:
        return Ready(
            device=os.environ.get("SYNTHETIC_DEVICE", "synthetic"),
            precision=os.environ.get("SYNTHETIC_PRECISION", "fp32"),
            pairs=0,
            data_sha256="",
        )

    def run_trial(
        self,
        spec: StudySpec,
        hyperparameters: Hyperparameters,
        *,
        report: Report,
        run: TrialRun | None = None,
    ) -> Outcome:
        assert run is not None
        _fail_if_told(run.number)
        return unless_superseded(
            run, lambda through: self._run(spec, hyperparameters, report, run, through)
        )

    def _run(
        self,
        spec: StudySpec,
        hyperparameters: Hyperparameters,
        report: Report,
        run: TrialRun,
        through: Path,
    ) -> Outcome:
        known = {fold.fold: fold for fold in run.finished}
        finished: list[FoldReport] = []
        for number in range(1, spec.validation.fold_count + 1):
            done = _load_fold(run.directory, number) or known.get(number)
            if done is None:
                verdict, done = self._fold(hyperparameters, report, run, number, through)
                if done is None:
                    return _end(run, verdict, finished, through)
            finished.append(done)
            verdict = report(done)
            if verdict is Verdict.STOP:  # an earlier worker may have gone on without an answer
                for later in range(number + 1, spec.validation.fold_count + 1):
                    done = _load_fold(run.directory, later) or known.get(later)
                    if done is None:
                        break
                    finished.append(done)
            if len(finished) == spec.validation.fold_count:
                break
            if verdict is not Verdict.CONTINUE:
                return _end(run, verdict, finished, through)
        return _end(run, Verdict.CONTINUE, finished, through)

    def _fold(
        self,
        hyperparameters: Hyperparameters,
        report: Report,
        run: TrialRun,
        fold: int,
        through: Path,
    ) -> tuple[Verdict, FoldReport | None]:
        training = hyperparameters.training
        checkpoint = run.directory / f"checkpoint-{fold}.json"
        stood = _load_checkpoint(checkpoint)
        scores: list[float] = stood["scores"] if stood else []
        for epoch in range(len(scores) + 1, training.epochs + 1):
            if report(Progress(fold, epoch, "train", 1, 2)) is Verdict.YIELD:
                return Verdict.YIELD, None
            _note(run.directory, fold, epoch)
            failpoint("trainer.epoch")
            time.sleep(EPOCH_S)
            scores.append(score_of(training.learning_rate, run.seed, fold, epoch))
            _save_checkpoint(checkpoint, scores, through)
            verdict = report(
                EpochReport(fold, epoch, scores[-1], max(scores), 1.0 / epoch, EPOCH_S)
            )
            if verdict is not Verdict.CONTINUE:
                return verdict, None
        best = max(scores)
        done = FoldReport(
            fold, best, scores.index(best) + 1, len(scores), {"f1": best, "collapsed": COLLAPSED}
        )
        failpoint("trainer.fold")
        content = {"report": asdict(done), "bulk": BULK}
        write_json(run.directory / f"fold-{fold}.json", content, through=through)
        checkpoint.unlink(missing_ok=True)
        return Verdict.CONTINUE, done


def _end(run: TrialRun, verdict: Verdict, finished: list[FoldReport], through: Path) -> Outcome:
    states = {Verdict.CONTINUE: "complete", Verdict.STOP: "pruned", Verdict.YIELD: "yielded"}
    score = sum(fold.score for fold in finished) / len(finished) if finished else None
    outcome = Outcome(states[verdict], score, tuple(finished))  # type: ignore[arg-type]
    if verdict is not Verdict.YIELD:
        write_json(run.directory / "result.json", asdict(outcome), through=through)
        failpoint("trainer.result")
    return outcome


def _load_fold(folder: Path, fold: int) -> FoldReport | None:
    found = read_json(folder / f"fold-{fold}.json")
    return FoldReport(**found["report"]) if found else None


def _save_checkpoint(path: Path, scores: list[float], through: Path) -> None:
    failpoint("trainer.save")
    content = {"scores": scores, "bulk": BULK}
    write_json(path, {**content, "sha256": _digest(content)}, through=through)


def _load_checkpoint(path: Path) -> dict[str, list[float]] | None:
    found = read_json(path)
    if found is None:
        return None
    digest = found.pop("sha256", None)
    return found if digest == _digest(found) else None


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _note(folder: Path, fold: int, epoch: int) -> None:
    """One line for each epoch that is really trained, for the checker."""
    line = json.dumps({"fold": fold, "epoch": epoch, "pid": os.getpid(), "at": time.monotonic()})
    with os.fdopen(
        os.open(folder / "history.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w"
    ) as file:
        file.write(line + "\n")


def _fail_if_told(number: int) -> None:
    cause, _, numbers = os.environ.get("SYNTHETIC_FAIL", "").partition(":")
    if cause and (numbers == "*" or str(number) in numbers.split(",")):
        raise TrialFailed(cause, f"told to fail with {cause}")


if __name__ == "__main__":
    serve(lambda setup, _: SyntheticTrainer(setup), sys.argv[1:])
