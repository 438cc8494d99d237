"""Faults that only a real trainer can have: its labels, its card's memory, its model's hub."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card_trials import LARGE, difference, study, train
from desk import Desk

from criteria_cli.data.formats import load_corpus
from criteria_cli.study.messages import TrainerSetup
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, Event, FoldReport, Progress, TrialRun, Verdict
from criteria_cli.training.model import load_encoder
from criteria_cli.training.simulated import SimulatedCard
from criteria_cli.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pairs_file(path: Path, negatives: int) -> None:
    """Twelve posts about one criterion, of which the first few do not show it."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["post_id", "post", "DSM5_symptom", "groundtruth"])
        for post in range(12):
            text = f"I slept {post} hours and walked to the river in the rain."
            rows.writerow([f"p{post}", text, "A.1", int(post >= negatives)])


@pytest.mark.fault(51)
def test_a_fold_whose_pairs_have_one_label_is_trained_scored_and_stored(
    tmp_path: Path, sqlite_template: Path
) -> None:
    """The one post that does not show the criterion is held out in one of two folds: there the
    model learns from one label and is scored on two, in the other the other way about."""
    pairs_file(tmp_path / "pairs.csv", negatives=1)
    spec = StudySpec.model_validate(
        {
            "schema": 1, "name": "s",
            "data": {"format": "pairs", "path": "pairs.csv"},
            "model": {"name": "builtin:tiny-deberta-v2", "max_length": 32},
            "validation": {"folds": 2, "metric": "average_precision"},
            "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
            "search": {"learning_rate": {"low": 1e-6, "high": 1e-3, "log": True}},
            "pruner": {"type": "none"}, "sampler": {"type": "random"}, "budget": {"trials": 1},
        }
    )  # fmt: skip
    trainer = Trainer(TrainerSetup(spec, tmp_path, tmp_path / "runs", "cpu", 1))
    held_out = [set(trainer.corpus.label[fold.validation].tolist()) for fold in trainer.folds]
    assert sorted(held_out, key=len) == [{1}, {0, 1}]
    desk = Desk(f"sqlite:///{sqlite_template.parent / 'one-label.db'}", spec)
    try:
        claim = desk.take()

        def report(event: Event) -> Verdict:
            if isinstance(event, FoldReport):
                desk.report(claim.lease, event.fold, event.score)
            elif isinstance(event, EpochReport):
                desk.report(claim.lease, event.fold, event.score, event.epoch)
            return Verdict.CONTINUE

        run = TrialRun(claim.lease.trial, 1, tmp_path / "runs" / "trial-0")
        outcome = trainer.run_trial(
            spec, spec.hyperparameters(claim.params), report=report, run=run
        )
        assert outcome.state == "complete"
        one = outcome.folds[held_out.index({1})].metrics
        assert (one["average_precision"], one["auroc"], one["positives"]) == (
            1.0,
            0.5,
            one["pairs"],
        )
        assert desk.tell(claim.lease, *[fold.score for fold in outcome.folds]) == "complete"
        ((value,),) = desk.rows("select value from trial_values")
        assert value == pytest.approx(outcome.score)
    finally:
        desk.close()


@pytest.mark.fault(56)
def test_another_process_takes_the_cards_memory_in_the_middle_of_a_trial() -> None:
    """Steps that no longer fit are taken again in smaller parts; the trial comes out the same."""
    spec = study(epochs=1, auto_detect_batch_size=False)
    alone = train(spec, LARGE, {})

    def neighbour(card: SimulatedCard, event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "load":
            card.others_bytes = 42 * 2**30

    beside = train(spec, LARGE, {}, meanwhile=neighbour)
    assert alone.ooms == 0
    assert {len(step) for step in alone.sizes} == {1}
    assert beside.ooms > 0
    assert max(len(step) for step in beside.sizes) > 1
    assert beside.rates == alone.rates
    assert difference(beside.parameters, alone.parameters) < 1e-4
    assert beside.scores == pytest.approx(alone.scores, abs=1e-6)


CLOSED = """
import sys
from criteria_cli.errors import UsageError
from criteria_cli.study.spec import ModelSpec
from criteria_cli.training.model import load_encoder
for name in sys.argv[1:]:
    try:
        print("read", load_encoder(ModelSpec(name=name)).source)
    except UsageError as error:
        print(error.message)
"""


@pytest.mark.fault(58)
def test_a_hub_that_cannot_be_reached_is_not_needed_for_a_model_in_the_cache(
    tmp_path: Path,
) -> None:
    """Nothing says that we are offline: the hub's address refuses connections."""
    commit = cached(tmp_path, "someone/kept")

    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, "someone/kept", "someone/else"],
        env=kept | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"read {commit}",
        "model `someone/else` is not in the cache and the hub cannot be reached",
    ]
    assert done.stderr == ""


def cached(home: Path, name: str) -> str:
    """A small model in a hub cache, as a download leaves it; its commit."""
    folder, commit = home / "hub" / f"models--{name.replace('/', '--')}", "0123456789abcdef" * 2
    snapshot = folder / "snapshots" / commit
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    texts = load_corpus(study().data, home).texts
    encoder = load_encoder(study().model, texts)
    encoder.module.save_pretrained(snapshot)
    encoder.tokenizer.save_pretrained(snapshot)
    return commit
