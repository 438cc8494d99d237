"""A trial: folds on disk before they are told, never trained twice, the same after any crash."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from criteria_cli.errors import TrialFailed
from criteria_cli.study.attempts import Attempt
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import (
    EpochReport,
    Event,
    FoldReport,
    Outcome,
    Progress,
    TrialRun,
    Verdict,
)
from criteria_cli.training.results import TrialFolder
from criteria_cli.training.trainer import Trainer, run_trial

from .conftest import toy_spec

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3}


def quiet(_: Event) -> Verdict:
    return Verdict.CONTINUE


class Listener:
    """Remembers every event; answers one with a verdict of choice."""

    def __init__(
        self, verdict: Verdict = Verdict.CONTINUE, at: Callable[[Event], bool] = lambda _: False
    ) -> None:
        self.events: list[Event] = []
        self.verdict, self.at = verdict, at

    def __call__(self, event: Event) -> Verdict:
        self.events.append(event)
        return self.verdict if self.at(event) else Verdict.CONTINUE

    def epochs(self) -> list[tuple[int, int]]:
        return [(e.fold, e.epoch) for e in self.events if isinstance(e, EpochReport)]

    def folds(self) -> list[int]:
        return [e.fold for e in self.events if isinstance(e, FoldReport)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("trainer")
    return Trainer(TrainerSetup(toy_spec(), folder, folder / "runs", "cpu", 1))


def run(
    trainer: Trainer, folder: Path, report: Callable[[Event], Verdict] = quiet, **params: Any
) -> Outcome:
    hyperparameters = trainer.spec.hyperparameters(SETTINGS | params)
    return trainer.run_trial(
        trainer.spec, hyperparameters, report=report, run=TrialRun(3, 11, folder)
    )


def results(outcome: Outcome) -> list[tuple[Any, ...]]:
    """A trial's result without what it cost."""
    return [
        (fold.fold, fold.score, fold.best_epoch, fold.epochs, fold.metrics, fold.per_criterion)
        for fold in outcome.folds
    ]


def test_a_trial_leaves_its_folds_and_result_on_disk(trainer: Trainer, tmp_path: Path) -> None:
    folder = tmp_path / "trial-3"
    outcome = run(trainer, folder)
    assert outcome.state == "complete"
    assert outcome.score == pytest.approx(np.mean([fold.score for fold in outcome.folds]))
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {
        "fold-1.json", "fold-1.safetensors", "fold-2.json", "fold-2.safetensors", "result.json",
    }  # fmt: skip
    assert not list((folder / "checkpoints").iterdir())
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in names)
    result = json.loads((folder / "result.json").read_text())
    assert result["schema"] == "criteria.trial/1"
    assert result["settings"]["training"]["learning_rate"] == 3e-3
    assert [fold["score"] for fold in result["folds"]] == [fold.score for fold in outcome.folds]
    fold = json.loads((folder / "fold-1.json").read_text())
    assert [epoch["epoch"] for epoch in fold["epochs"]] == [1, 2, 3]


@pytest.mark.parametrize("at", [EpochReport, FoldReport], ids=["a checkpoint", "a fold"])
def test_a_trainer_whose_trial_was_taken_over_writes_nothing_more(
    trainer: Trainer, tmp_path: Path, at: type
) -> None:
    def taken(event: Event) -> Verdict:
        if isinstance(event, at):
            Attempt(tmp_path, 3, 2).begin()
            left.append({path: path.stat().st_ino for path in tmp_path.rglob("*")})
        return Verdict.CONTINUE

    left: list[dict[Path, int]] = []
    outcome = run(trainer, tmp_path, report=taken)
    assert (outcome.state, outcome.folds) == ("yielded", ())
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == left[0]
    again = run(trainer, tmp_path)
    assert (again.state, again.folds) == ("yielded", ()), "an order that comes late"
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == left[0]


def test_folds_that_an_earlier_worker_finished_count_though_the_trial_is_stopped_now(
    trainer: Trainer, tmp_path: Path
) -> None:
    """It had gone on without an answer and died: its reports were not heard."""
    before = run(trainer, tmp_path)
    stopping = Listener(Verdict.STOP, lambda event: isinstance(event, FoldReport))
    again = run(trainer, tmp_path, report=stopping)
    assert stopping.folds() == [1]
    assert (again.state, results(again)) == ("complete", results(before))
    (tmp_path / "fold-2.json").unlink()
    third = run(trainer, tmp_path, report=stopping)
    assert (third.state, results(third)) == ("pruned", results(before)[:1])


def test_scores_on_disk_are_those_of_the_folds_pairs(trainer: Trainer, tmp_path: Path) -> None:
    from criteria_cli.training.metrics import measure

    outcome = run(trainer, tmp_path)
    hyperparameters = trainer.spec.hyperparameters(SETTINGS)
    stored = TrialFolder(tmp_path, trainer.fingerprint(hyperparameters, 11))
    seen = []
    for fold, report in zip(trainer.folds, outcome.folds, strict=True):
        pairs, scores = stored.load_scores(fold.number)
        assert np.array_equal(pairs, fold.validation)
        corpus = trainer.corpus
        metrics = measure(
            scores, corpus.label[pairs], corpus.criterion[pairs],
            [criterion.id for criterion in corpus.criteria],
        )  # fmt: skip
        assert metrics.value(trainer.spec.validation.metric) == report.score
        seen.extend(pairs)
    assert sorted(seen) == list(range(len(trainer.corpus)))


def test_nothing_on_disk_holds_a_posts_text(trainer: Trainer, tmp_path: Path) -> None:
    run(trainer, tmp_path)
    for path in [*tmp_path.rglob("*"), *trainer.setup.directory.rglob("*")]:
        if path.is_file() and not path.name.startswith("tiny-tokenizer"):
            content = path.read_bytes()
            assert not any(text[:60].encode() in content for text in trainer.corpus.texts)


def test_a_fold_is_on_disk_before_it_is_told(trainer: Trainer, tmp_path: Path) -> None:
    def report(event: Event) -> Verdict:
        if isinstance(event, FoldReport):
            assert (tmp_path / f"fold-{event.fold}.json").exists()
        return Verdict.CONTINUE

    run(trainer, tmp_path, report)


def test_finished_folds_are_told_again_and_not_trained(trainer: Trainer, tmp_path: Path) -> None:
    first = run(trainer, tmp_path)
    (tmp_path / "fold-2.json").unlink()
    listener = Listener()
    second = run(trainer, tmp_path, listener)
    assert results(second) == results(first)
    assert listener.folds() == [1, 2]
    assert {fold for fold, _ in listener.epochs()} == {2}


def test_stopped_after_a_fold(trainer: Trainer, tmp_path: Path) -> None:
    listener = Listener(Verdict.STOP, lambda event: isinstance(event, FoldReport))
    outcome = run(trainer, tmp_path, listener)
    assert (outcome.state, len(outcome.folds)) == ("pruned", 1)
    assert outcome.score == outcome.folds[0].score
    assert json.loads((tmp_path / "result.json").read_text())["state"] == "pruned"


def test_nothing_is_pruned_after_its_last_fold(trainer: Trainer, tmp_path: Path) -> None:
    last = Listener(Verdict.STOP, lambda event: isinstance(event, FoldReport) and event.fold == 2)
    assert run(trainer, tmp_path, last).state == "complete"


def test_stopped_within_a_fold(trainer: Trainer, tmp_path: Path) -> None:
    listener = Listener(Verdict.STOP, lambda event: isinstance(event, EpochReport))
    outcome = run(trainer, tmp_path, listener)
    assert (outcome.state, outcome.score, outcome.folds) == ("pruned", None, ())


def test_yielded_trials_go_on_in_another_trainer(trainer: Trainer, tmp_path: Path) -> None:
    expected = run(trainer, tmp_path / "undisturbed")
    at = Listener(
        Verdict.YIELD,
        lambda event: isinstance(event, EpochReport) and (event.fold, event.epoch) == (2, 1),
    )
    outcome = run(trainer, tmp_path / "trial", at)
    assert (outcome.state, len(outcome.folds)) == ("yielded", 1)
    assert not (tmp_path / "trial" / "result.json").exists()
    other = Trainer(TrainerSetup(trainer.spec, tmp_path, tmp_path / "elsewhere", "cpu", 1))
    listener = Listener()
    assert results(run(other, tmp_path / "trial", listener)) == results(expected)
    assert listener.epochs() == [(2, 2), (2, 3)]


def test_a_trial_does_not_hang_on_the_trials_before_it(trainer: Trainer, tmp_path: Path) -> None:
    first = run(trainer, tmp_path / "1")
    run(trainer, tmp_path / "2", learning_rate=1e-2, batch_size=8, frozen_layers=1, epochs=1)
    assert results(run(trainer, tmp_path / "3")) == results(first)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 1e-3}, {"epochs": 2}, {"negatives_per_positive": 2.0}],
    ids=lambda change: next(iter(change)),
)
def test_results_of_other_settings_are_refused(
    trainer: Trainer, tmp_path: Path, change: dict[str, Any]
) -> None:
    at = Listener(Verdict.STOP, lambda event: isinstance(event, FoldReport))
    run(trainer, tmp_path, at)
    with pytest.raises(TrialFailed, match=r"fold-1\.json` was trained with other settings") as no:
        run(trainer, tmp_path, **change)
    assert no.value.cause == "data"


def test_how_batches_are_split_is_no_setting_of_the_result(
    trainer: Trainer, tmp_path: Path
) -> None:
    at = Listener(Verdict.STOP, lambda event: isinstance(event, FoldReport))
    run(trainer, tmp_path, at)
    assert run(trainer, tmp_path, vram_headroom=0.2, eval_batch_size=4).state == "complete"


def test_a_damaged_fold_is_trained_again(trainer: Trainer, tmp_path: Path) -> None:
    expected = run(trainer, tmp_path)
    (tmp_path / "fold-1.safetensors").write_bytes(b"torn")
    listener = Listener()
    assert results(run(trainer, tmp_path, listener)) == results(expected)
    assert {fold for fold, _ in listener.epochs()} == {1}


def test_a_setting_that_the_model_cannot_take_fails_the_trial(
    trainer: Trainer, tmp_path: Path
) -> None:
    with pytest.raises(TrialFailed, match=r"`training\.frozen_layers` is 9, but the model") as no:
        run(trainer, tmp_path, frozen_layers=9)
    assert no.value.cause == "model"


def test_another_studys_trial_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    other = toy_spec(epochs=9)
    with pytest.raises(TrialFailed, match="belongs to another study"):
        trainer.run_trial(other, other.hyperparameters(), report=quiet)


def test_ready_says_what_a_study_must_agree_on(trainer: Trainer) -> None:
    ready = trainer.ready()
    assert ready.pairs == len(trainer.corpus) == 360
    assert ready.data_sha256 == trainer.corpus.sha256
    assert ready.precision == "fp32"
    assert {"criteria", "torch", "transformers", "model"} <= set(ready.versions)


def test_ready_says_how_much_of_the_posts_is_cut(trainer: Trainer) -> None:
    """Trap 6, against the tokenizer itself."""
    spec, corpus = trainer.spec, trainer.corpus
    tokenizer = trainer.model(spec.model).encoder.tokenizer
    special = tokenizer.num_special_tokens_to_add(pair=True)
    sizes = [
        [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        for texts in (corpus.texts, [criterion.text for criterion in corpus.criteria])
    ]
    whole = np.array([sizes[0][post] for post in corpus.post])
    room = spec.model.max_length - special - np.array([sizes[1][c] for c in corpus.criterion])
    lost = np.maximum(whole - room, 0)
    ready = trainer.ready()
    assert ready.cut_posts == len(set(corpus.post[lost > 0].tolist()))
    assert 0 < ready.cut_posts < len(corpus.texts)
    assert ready.unread == pytest.approx(lost.sum() / whole.sum())


def test_in_one_call_without_a_trainer(tmp_path: Path) -> None:
    listener = Listener()
    spec = toy_spec()
    outcome = run_trial(
        spec, spec.hyperparameters(), report=listener, base=tmp_path, device="cpu", threads=1
    )
    assert outcome.state == "complete"
    assert listener.folds() == [1, 2]
    assert isinstance(listener.events[0], Progress)


KILLED = """
import json, sys
from pathlib import Path
import torch
from criteria_cli.study.attempts import Attempt
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import TrialRun, Verdict, event_to_json
from criteria_cli.training import loop
from criteria_cli.training.trainer import Trainer

loop.PROGRESS_S = 0.0
spec = StudySpec.from_json(json.loads(sys.argv[1]))
folder = Path(sys.argv[2])

def report(event):
    print(json.dumps(event_to_json(event)), flush=True)
    return Verdict.CONTINUE

trainer = Trainer(TrainerSetup(spec, folder, folder / "runs", "cpu", 1))
trainer.run_trial(
    spec, spec.hyperparameters(json.loads(sys.argv[3])), report=report,
    run=TrialRun(3, 11, folder / "trial"),
)
"""


def kill_at(
    folder: Path, spec: StudySpec, params: dict[str, Any], moment: Callable[[dict[str, Any]], bool]
) -> None:
    """Run the trial in a process of its own and kill it with SIGKILL when `moment` comes."""
    arguments = [json.dumps(spec.to_json()), str(folder), json.dumps(params)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment(json.loads(line)):
                os.kill(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail("the trial ended before the moment came")
    assert process.returncode == -signal.SIGKILL


def in_second_folds_second_epoch(event: dict[str, Any]) -> bool:
    return (
        event["event"] == "progress"
        and (event["fold"], event["epoch"], event["phase"]) == (2, 2, "train")
        and event["step"] >= 3
    )


def test_killed_and_taken_up_again_it_ends_bit_equal(trainer: Trainer, tmp_path: Path) -> None:
    expected = run(trainer, tmp_path / "undisturbed")
    kill_at(tmp_path, trainer.spec, SETTINGS, in_second_folds_second_epoch)
    listener = Listener()
    outcome = run(trainer, tmp_path / "trial", listener)
    assert results(outcome) == results(expected)
    assert listener.folds() == [1, 2]
    assert listener.epochs() == [(2, 2), (2, 3)]  # at most one epoch again
    for number in (1, 2):
        one, other = (
            (tmp_path / name / f"fold-{number}.safetensors").read_bytes()
            for name in ("undisturbed", "trial")
        )
        assert one == other
