"""What measures a GPU works, shown on the simulated card; and without a GPU it says so."""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from criteria_cli.training import probe_process
from criteria_cli.training.probe import Probed, ProbeSettings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu_memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module("gpu_memory")
        # the same answer, without the start of a process each time
        patch.setattr(module, "probe", probed_here)
        gc.collect()
        gc.freeze()  # each measured step collects garbage: only what steps leave need be looked at
        yield module
        gc.unfreeze()


def probed_here(settings: ProbeSettings, *, refresh: bool = False) -> Probed:
    answer = probe_process.answer(settings.to_json() | {"known": {}, "refresh": refresh})
    return Probed.from_json(answer["probed"])


@pytest.fixture(scope="module")
def bench(gpu_memory: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = gpu_memory.bench_on("simulated:8GiB", tmp_path_factory.mktemp("model"))
    return replace(made, sizes_gib=(6, 8), steps=2)


def test_predictions_are_near_what_is_measured(gpu_memory: Any, bench: Any) -> None:
    rows = gpu_memory.prediction(bench)
    assert len(rows) >= 8
    for row in rows:
        assert not row["out_of_memory"]
        assert abs(row["relative_error"]) < 0.05, row


def test_the_maximum_is_that_of_exhaustive_search(
    gpu_memory: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_memory.importlib.util, "find_spec", lambda _name: None)
    for card in gpu_memory.cards(replace(bench, sizes_gib=(6,))):
        assert card["found"] == card["exhaustive"] > 0
        assert card["ooms"] <= 1
        assert card["finders"] == {}


def test_mixed_lengths_at_the_limit(gpu_memory: Any, bench: Any) -> None:
    (row,) = gpu_memory.variable(bench)
    assert row["ooms"] == 0
    assert row["micro_batches"] > row["steps"] == 2
    assert 0.5 < row["reserved_of_cap"] <= 1.0


def test_the_difference_of_a_split(gpu_memory: Any, bench: Any) -> None:
    (row,) = gpu_memory.exactness(bench)
    assert len(row["micro_batches"]) == 3
    assert row["difference"] < 1e-5
    assert row["difference_of_a_repetition"] < 1e-5


def test_parts_are_kept_beside_each_other(gpu_memory: Any, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    gpu_memory.keep(path, "cards", "A", [{"found": 1}])
    gpu_memory.keep(path, "variable", "A", [{"ooms": 0}])
    kept = json.loads(path.read_text())
    assert kept["card"] == "A"
    assert kept["cards"] == [{"found": 1}]
    assert kept["variable"] == [{"ooms": 0}]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    ran = subprocess.run(
        [BENCHMARKS / "gpu.sh", tmp_path / "gpu.json"],
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 3
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("not measured: ")
    assert not (tmp_path / "gpu.json").exists()


def test_every_way_to_run_the_model_is_timed(
    gpu_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    throughput = importlib.import_module("gpu_throughput")
    assert gpu_memory.GIB == 2**30  # its folder is on the path
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(throughput, "probe", probed_here)
    bench = throughput.cpu_bench()
    compiled = replace(bench, model=bench.model.model_copy(update={"compile": False}))
    rows, choice = throughput.measure(compiled, 1)
    assert [(row["mean_length"], row["side"]) for row in rows] == [
        (mean, side) for mean in throughput.MEAN_LENGTHS for side in ("reference", "rewrite")
    ]
    assert all(row["seconds"] > 0 and row["mfu"] > 0 for row in rows)
    assert choice["name"] == "rewrite"
    assert not choice["refused"]
