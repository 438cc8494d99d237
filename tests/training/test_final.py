import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from criteria_cli.data.folds import inner_split, split
from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import MachineError, Saved, UsageError
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, Event, FoldReport, Progress, Verdict
from criteria_cli.training.calibration import Calibration
from criteria_cli.training.estimates import estimates, final_calibration
from criteria_cli.training.final import INNER, train
from criteria_cli.training.heldout import HeldOut
from criteria_cli.training.predict import Predictor

from .conftest import Trained, elsewhere, toy_order, toy_spec


def go_on(event: Event) -> Verdict:
    return Verdict.CONTINUE


def test_every_fold_and_the_final_model_are_reported(trained: Trained) -> None:
    folds = [event for event in trained.events if isinstance(event, FoldReport)]
    assert [fold.fold for fold in folds] == [1, 2, 3]
    assert all(0 <= fold.score <= 1 for fold in folds)
    epochs = [event.fold for event in trained.events if isinstance(event, EpochReport)]
    assert epochs == [1, 2, 3]


def test_two_processes_never_train_the_same_folds(tmp_path: Path) -> None:
    order = toy_order(tmp_path)
    refused = []

    def again(event: Event) -> Verdict:
        if not refused:
            with pytest.raises(MachineError, match="is at work in") as error:
                train(replace(order, out=tmp_path / "other"), go_on)
            refused.append(error.value.code)
        return Verdict.STOP

    with pytest.raises(Saved):
        train(order, again)
    assert refused == ["machine.busy"]
    with pytest.raises(Saved):  # and the lock is gone with the first
        train(order, lambda _: Verdict.STOP)


def test_what_is_reported_is_complete(trained: Trained) -> None:
    model, spec = trained.model, trained.order.spec
    corpus = load_corpus(spec.data, Path())
    names = {"precision", "recall", "f1", "auroc", "average_precision"}
    assert names <= set(model.metrics["nested"])
    assert names <= set(model.metrics["intervals"])
    assert set(model.per_criterion) == {criterion.id for criterion in corpus.criteria}
    for values in model.per_criterion.values():
        assert names <= set(values)
        for metric in names:
            low, high = values["intervals"][metric]
            assert 0 <= low <= high <= 1
    assert [fold["fold"] for fold in model.folds] == [1, 2]
    assert model.metrics["nested"]["pairs"] == len(corpus)


def test_the_model_on_all_data_ends_where_the_folds_did(trained: Trained) -> None:
    best = [event.best_epoch for event in trained.events if isinstance(event, FoldReport)]
    assert trained.model.report["final"]["epochs"] == best[-1] == 1
    assert trained.model.report["final"]["pairs"] == 40 * 9


# ---- what is honest


def held_out(corpus, *, random: bool, seed: int = 0) -> list[HeldOut]:
    """Folds whose models know nothing at all, or the labels."""
    numbers = np.random.default_rng(seed)
    folds = []
    for fold in split(corpus, toy_spec().validation):
        noise = numbers.normal(size=len(fold.validation)).astype(np.float32)
        signal = 0 if random else 6 * (corpus.label[fold.validation] - 0.5)
        folds.append(
            HeldOut(
                fold.number,
                fold.validation,
                (noise + signal).astype(np.float32),
                Calibration(),
                10,
                1,
                1,
                {},
            )
        )
    return folds


def test_on_noise_the_optimistic_estimate_is_the_higher_one() -> None:
    """Thresholds fitted and scored on the same pairs find structure where there is none."""
    corpus = load_corpus(toy_spec().data, Path())
    gaps = []
    for seed in range(5):
        found = estimates(corpus, held_out(corpus, random=True, seed=seed), nested_means="")
        gaps.append(found["optimistic"]["f1"] - found["nested"]["f1"])
    assert min(gaps) > 0


def test_estimates_of_a_model_that_knows_the_answers() -> None:
    corpus = load_corpus(toy_spec().data, Path())
    found = estimates(corpus, held_out(corpus, random=False), nested_means="", search_score=0.9)
    assert found["nested"]["f1"] > 0.97
    assert found["search"] == 0.9
    assert found["collapsed_folds"] == []
    calibration = final_calibration(corpus, held_out(corpus, random=False))
    assert 0.01 < calibration.threshold < 0.99
    json.dumps(found, allow_nan=False)


def test_a_model_that_says_the_same_of_all_pairs_is_called_collapsed() -> None:
    corpus = load_corpus(toy_spec().data, Path())
    first, second = held_out(corpus, random=False)
    same = replace(first, scores=np.full(len(first.pairs), -1.5, dtype=np.float32))
    assert estimates(corpus, [same, second], nested_means="")["collapsed_folds"] == [1]
    prevalence = corpus.label.mean()
    probability = final_calibration(corpus, [same]).probabilities(np.array([-1.5, -1.4]))
    assert probability == pytest.approx(prevalence, abs=0.06), "not made up from nothing"


def test_inner_pairs_share_no_group_with_the_pairs_that_are_reported() -> None:
    spec = toy_spec()
    corpus = load_corpus(spec.data, Path())
    for fold in split(corpus, spec.validation):
        inner = inner_split(corpus, fold.train, INNER, 42 + fold.number)
        blocks = [
            set(corpus.blocks[corpus.post[pairs]].tolist())
            for pairs in (inner.train, inner.validation, fold.validation)
        ]
        assert not blocks[0] & blocks[1]
        assert not blocks[1] & blocks[2]
        assert not blocks[0] & blocks[2]
        assert len(inner.validation) / len(fold.train) == pytest.approx(INNER, abs=0.1)


def test_the_labels_of_reported_pairs_choose_nothing(tmp_path: Path) -> None:
    """With other labels in fold 1, all that judges fold 1 is the same: the epoch, the model, the
    calibration (traps 11 and 40).
    """
    from criteria_cli.training import final

    class OtherLabels(final._Training):
        def __init__(self, order, report):
            super().__init__(order, report)
            first = self.trainer.folds[0]
            label = self.corpus.label.copy()
            label[first.validation] = 1 - label[first.validation]
            object.__setattr__(self.corpus, "label", label)

    spec = toy_spec(epochs=4, learning_rate=1e-2)
    metric = spec.validation.model_copy(update={"metric": "average_precision"})
    data = spec.data.model_copy(update={"posts": 20})
    spec = spec.model_copy(update={"validation": metric, "data": data})
    found = []
    for kind in (final._Training, OtherLabels):
        training = kind(toy_order(tmp_path / kind.__name__, spec), go_on)
        found.append(training._fold(training.trainer.folds[0]))
    with_own, with_other = found
    assert with_own.scores.tolist() == with_other.scores.tolist()
    assert with_own.calibration.to_json() == with_other.calibration.to_json()
    assert with_own.best_epoch == with_other.best_epoch


def test_each_fold_has_the_settings_that_were_chosen_without_it(tmp_path: Path) -> None:
    spec = toy_spec()
    order = toy_order(tmp_path, spec)
    other = spec.hyperparameters({"batch_size": 64})
    order = replace(
        order, trial=7, origin="trial 7 of study toy", search_score=0.8,
        chosen_without=(order.hyperparameters, other),
    )  # fmt: skip
    steps: dict[int, int] = {}

    def report(event: Event) -> Verdict:
        if isinstance(event, Progress):
            steps[event.fold] = event.steps
        return Verdict.CONTINUE

    model = train(order, report)
    assert steps[1] > 3 * steps[2]
    record = model.report
    assert (
        "the settings by the search's scores on the other folds"
        in (record["estimates"]["nested_means"])
    )
    assert record["estimates"]["search"] == 0.8
    assert record["study"]["command"] == "criteria train toy --from 7"


# ---- going on


def test_a_stopped_training_goes_on_to_the_very_same_model(
    trained: Trained, tmp_path: Path
) -> None:
    order = elsewhere(trained.order, tmp_path)
    stops = 0
    for wanted in (("epoch", 1), ("fold", 1), ("epoch", 2)):
        seen: list[int] = []

        def report(event: Event, wanted=wanted, seen=seen) -> Verdict:
            kind = {EpochReport: "epoch", FoldReport: "fold"}.get(type(event))
            if isinstance(event, EpochReport):
                seen.append(event.fold)
            return (
                Verdict.YIELD if (kind, getattr(event, "fold", 0)) == wanted else Verdict.CONTINUE
            )

        with pytest.raises(Saved):
            train(order, report)
        stops += 1
    assert stops == 3
    assert not order.out.exists()
    epochs: list[int] = []

    def count(event: Event) -> Verdict:
        if isinstance(event, EpochReport):
            epochs.append(event.fold)
        return Verdict.CONTINUE

    train(order, count)
    assert 1 not in epochs, "a finished fold was trained again"
    same = load_file(trained.directory / "model.safetensors")
    for name, tensor in load_file(order.out / "model.safetensors").items():
        assert torch.equal(tensor, same[name]), name
    left, right = (
        json.loads((folder / "criteria.json").read_text())
        for folder in (order.out, trained.directory)
    )
    assert left["calibration"] == right["calibration"]
    assert left["estimates"] == right["estimates"]
    assert not list(order.directory.rglob("*.safetensors")), "checkpoints were left behind"


def test_a_crash_after_the_last_epoch_trains_no_further_epoch(
    trained: Trained, tmp_path: Path
) -> None:
    """The final model's checkpoint may already be of the last epoch."""
    spec = toy_spec(epochs=3)
    order = replace(
        elsewhere(trained.order, tmp_path), spec=spec, hyperparameters=spec.hyperparameters()
    )

    class Crash(Exception):
        pass

    ends: list[int] = []

    def report(event: Event) -> Verdict:
        if isinstance(event, FoldReport):
            ends.append(event.best_epoch)
        elif isinstance(event, EpochReport) and event.fold == 3:
            ends.append(event.epoch)
            if event.epoch == round(float(np.median(ends[:2]))):
                raise Crash
        return Verdict.CONTINUE

    with pytest.raises(Crash):
        train(order, report)
    last = ends[-1]
    after: list[int] = []

    def listen(event: Event) -> Verdict:
        if isinstance(event, EpochReport) and event.fold == 3:
            after.append(event.epoch)
        return Verdict.CONTINUE

    assert train(order, listen).report["final"]["epochs"] == last
    assert [epoch for epoch in after if epoch > last] == []


# ---- the target


def test_nothing_is_written_over(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        train(trained.order, go_on)
    foreign = tmp_path / "model"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("ten years of work")
    with pytest.raises(UsageError, match="not a model that criteria wrote"):
        train(replace(trained.order, out=foreign, overwrite=True), go_on)
    assert (foreign / "thesis.tex").exists()


def test_a_model_of_ours_is_replaced_when_asked(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained.directory, copy)
    (copy / "stale.txt").write_text("")
    train(replace(trained.order, out=copy, overwrite=True), go_on)
    assert not (copy / "stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    Predictor(copy)


@pytest.mark.parametrize("error", [OSError(5, "an error of the disk"), KeyboardInterrupt()])
def test_a_model_that_cannot_be_replaced_stays(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained.directory, copy)
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if target == copy and path.parent == tmp_path:  # the new one, on its way to its place
            raise error
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((MachineError, KeyboardInterrupt)):
        train(replace(trained.order, out=copy, overwrite=True), go_on)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    Predictor(copy)


def test_a_criterion_without_training_pairs_is_not_scored(tmp_path: Path) -> None:
    """Of the nine criteria of the catalogue, the data knows two."""
    rows = ["post_id,post,criterion,label"]
    for number in range(24):
        for place, criterion in enumerate(("A.1", "A.4")):
            label = number // (place + 1) % 2
            rows.append(f"p{number},post {number},{criterion},{label}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    columns = {"post_id": "post_id", "post": "post", "criterion": "criterion", "label": "label"}
    data = {"format": "pairs", "path": "pairs.csv", "columns": columns}
    spec = StudySpec.model_validate(toy_spec().to_json() | {"data": data})
    model = train(toy_order(tmp_path, spec), go_on)
    found = Predictor(model.model_dir).predict(["some post"])
    assert [prediction.criterion_id for prediction in found] == ["A.1", "A.4"]
    assert "and 2 criteria" in (model.model_dir / "README.md").read_text()


def test_only_the_owner_can_read_what_is_written(trained: Trained) -> None:
    for path in [trained.order.directory, *trained.order.directory.rglob("*"), trained.directory,
                 *trained.directory.iterdir()]:  # fmt: skip
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_text_of_a_post_is_in_the_model_directory(trained: Trained) -> None:
    """Every run of six words of every post, against every readable file."""
    corpus = load_corpus(trained.order.spec.data, Path())
    content = " ".join(
        (trained.directory / name).read_text()
        for name in ("README.md", "criteria.json", "config.json", "tokenizer_config.json")
    )
    for text in corpus.texts:
        words = text.split()
        for start in range(len(words) - 5):
            assert " ".join(words[start : start + 6]) not in content
    assert str(trained.directory.parent) not in content
