"""The wheel carries everything: installed alone, away from the checkout, it runs a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release would be, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation",
            "--no-index", "-w", str(folder), str(ROOT),
        ],
        check=True,
        capture_output=True,
        cwd=folder,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own, before the checkout on the path."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index",
            "--no-compile", "--target", str(folder), str(wheel),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CRITERIA_")}
    return subprocess.run(
        [str(installed / "bin" / "criteria"), *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_it_holds_the_package_and_what_the_package_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"criteria_cli", next(top for top in tops if top.endswith(".dist-info"))}
    assert "criteria_cli/_bundled/studies/demo.toml" in names
    assert "criteria_cli/_bundled/alembic/env.py" in names
    assert any(name.startswith("criteria_cli/_bundled/alembic/versions/0001") for name in names)
    assert "criteria_cli/py.typed" in names
    assert not any(name.endswith((".pyc", ".db")) for name in names)


def test_it_runs_a_search_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import criteria_cli; print(criteria_cli.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(installed) in where.stdout
    done = run(
        installed, tmp_path, "hpo", "demo", "--device", "cpu", "--trials", "2",
        "--set", "data.posts=20", "--set", "validation.folds=2", "--set", "training.epochs=1",
        "--set", 'pruner={type="none"}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "next: criteria train demo --from best" in done.stderr
    status = run(installed, tmp_path, "status", "demo", "--json")
    study = json.loads(status.stdout)["study"]
    assert (study["state"], study["trials"]["complete"]) == ("finished", 2)
    assert "finished" in run(installed, tmp_path, "status").stdout
