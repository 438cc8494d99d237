"""A fold's held-out scores are believed only as they were saved."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from criteria_cli.errors import MachineError, Saved
from criteria_cli.study.trial import EpochReport, Event, FoldReport, Verdict
from criteria_cli.training.calibration import Calibration
from criteria_cli.training.final import train
from criteria_cli.training.heldout import HeldOut

from .conftest import toy_order


def held_out() -> HeldOut:
    return HeldOut(
        fold=1,
        pairs=np.array([3, 1, 7], dtype=np.int64),
        scores=np.array([0.1, -2.5, 3.25], dtype=np.float32),
        calibration=Calibration(0.9, 0.1, 0.4, {"A.1": 0.3}, 0.2),
        inner_pairs=5,
        best_epoch=2,
        epochs=3,
        costs={"forward": 1.5},
        evidence={"precision_at_1": 0.5, "chance": 0.25, "pairs": 4},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "train-0123"
    held_out().save(path, "fingerprint")
    return path


def change(folder: Path, changes: dict[str, Any], *, sealed: bool) -> None:
    """Change the file, with a digest that fits or the one it had."""
    path = folder / "fold-1.json"
    content = json.loads(path.read_text()) | changes
    if sealed:
        del content["sha256"]
        whole = json.dumps(content, sort_keys=True).encode()
        content["sha256"] = hashlib.sha256(whole).hexdigest()
    path.write_text(json.dumps(content))


def test_it_is_found_as_it_was_saved(folder: Path) -> None:
    found = HeldOut.load(folder, 1, "fingerprint")
    assert found is not None
    assert found.pairs.tolist() == [3, 1, 7]
    assert found.scores.tolist() == held_out().scores.tolist()
    assert found.calibration == held_out().calibration
    left, right = (
        asdict(replace(each, pairs=np.zeros(0), scores=np.zeros(0), calibration=Calibration()))
        for each in (found, held_out())
    )
    for name in ("pairs", "scores"):
        del left[name], right[name]
    assert left == right
    assert (folder / "fold-1.json").stat().st_mode & 0o777 == 0o600


def test_none_is_found_where_none_was_saved(folder: Path) -> None:
    assert HeldOut.load(folder, 2, "fingerprint") is None
    assert HeldOut.load(folder, 1, "another") is None
    assert HeldOut.load(folder.parent / "train-4567", 1, "fingerprint") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": [0.1, -2.5, 3.5]},
        {"pairs": [3, 1, 6]},
        {"best_epoch": 1},
        {"sha256": None},
        {"sha256": "0"},
        {"more": 1},
    ],
)
def test_a_file_that_was_changed_is_not_believed(changes: dict[str, Any], folder: Path) -> None:
    change(folder, changes, sealed=False)
    assert HeldOut.load(folder, 1, "fingerprint") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "criteria.heldout/1"},
        {"more": 1},
        {"fold": 2},
        {"pairs": [3, 1]},
        {"pairs": [3, 3, 1]},
        {"pairs": [3, -1, 1]},
        {"pairs": [2**70, 1, 2]},
        {"pairs": "none"},
        {"pairs": [], "scores": []},
        {"pairs": [[3, 1, 7]], "scores": [[1, 2, 3]]},
        {"pairs": None},
        {"scores": [1.0, [2.0], 3.0]},
        {"scores": [1.0, float("nan"), 3.0]},
        {"scores": [1.0, 1e300, 3.0]},
        {"calibration": None},
        {"calibration": {}},
        {"calibration": Calibration(temperature=0.0).to_json()},
        {"calibration": Calibration(bias=float("inf")).to_json()},
        {"best_epoch": "2"},
        {"epochs": -1},
        {"inner_pairs": 1.5},
        {"costs": None},
        {"costs": {"forward": "long"}},
        {"costs": {"forward": float("inf")}},
        {"evidence": [1]},
        {"evidence": {"chance": None}},
    ],
)
def test_a_file_of_another_form_is_not_used(changes: dict[str, Any], folder: Path) -> None:
    change(folder, changes, sealed=True)
    with np.errstate(over="ignore"):
        assert HeldOut.load(folder, 1, "fingerprint") is None


@pytest.mark.parametrize("name", ["scores", "calibration", "costs", "fold"])
def test_a_file_that_lacks_a_key_is_not_used(name: str, folder: Path) -> None:
    path = folder / "fold-1.json"
    content = json.loads(path.read_text())
    del content[name], content["sha256"]
    path.write_text(json.dumps(content))
    change(folder, {"sha256": ""}, sealed=True)
    assert HeldOut.load(folder, 1, "fingerprint") is None


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"[]", b'{"fingerprint": "fingerprint"}'])
def test_a_damaged_file_is_not_used(content: bytes, folder: Path) -> None:
    (folder / "fold-1.json").write_bytes(content)
    assert HeldOut.load(folder, 1, "fingerprint") is None


def test_a_changed_fold_is_trained_again_and_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    order = toy_order(tmp_path)
    trained: list[int] = []

    def report(event: Event) -> Verdict:
        if isinstance(event, EpochReport):
            trained.append(event.fold)
        return Verdict.STOP if isinstance(event, FoldReport) else Verdict.CONTINUE

    def run() -> None:
        with pytest.raises(Saved):
            train(order, report)

    run()
    run()
    assert trained == [1]
    (path,) = order.directory.glob("train-*/fold-1.json")
    saved = json.loads(path.read_text())
    change(path.parent, {"scores": [0.0] * len(saved["scores"])}, sealed=False)
    run()
    assert trained == [1, 1]
    assert json.loads(path.read_text())["scores"] == saved["scores"]
    path.unlink()
    path.mkdir()
    named = (
        rf"^`{re.escape(path.parent.name)}/fold-1.json` is a folder, criteria keeps a file there$"
    )
    with pytest.raises(MachineError, match=named):
        train(order, report)
    assert trained == [1, 1], "trained for what could not be kept"
