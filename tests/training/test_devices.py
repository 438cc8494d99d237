"""Names of devices, and what is said where there is none."""

import re
from types import SimpleNamespace

import pytest
import torch

from criteria_cli.errors import MachineError, UsageError
from criteria_cli.training import cuda, visible
from criteria_cli.training.devices import CpuDevice, precision_for
from criteria_cli.training.opening import open_device

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_processor_is_a_device() -> None:
    device = open_device("cpu")
    assert isinstance(device, CpuDevice)
    assert 0 < device.free_bytes() <= device.total_bytes()
    assert device.peak().requested > 0
    state = device.random_state()
    first = torch.rand(3)
    device.set_random_state(state)
    assert torch.equal(torch.rand(3), first)


@no_gpu
def test_auto_is_the_processor_where_no_card_is() -> None:
    assert open_device("auto").kind == "cpu"
    assert visible.visible_devices() == ()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""])
def test_other_names_are_wrong_use(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"not `{name}`")):
        open_device(name)


@pytest.mark.skipif(visible.torch_has_gpu_support(), reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so() -> None:
    with pytest.raises(MachineError, match=r"this torch \(.+\) has no CUDA support") as raised:
        open_device("cuda:0")
    assert raised.value.hint


def test_hidden_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible, "torch_has_gpu_support", lambda: True)
    for value in ("", " ", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(MachineError, match="no GPU is visible: CUDA_VISIBLE_DEVICES is empty"):
            visible.require_gpu_support()
        assert visible.visible_devices() == ()


def test_a_card_that_is_not_there() -> None:
    assert visible.missing_device(9, 2).message == "GPU 9 does not exist, this machine has 0 to 1"
    assert visible.missing_device(1, 1).message == "GPU 1 does not exist, this machine has 0"
    assert visible.missing_device(0, 0).message == "no GPU is visible to torch"


class OldCard(CpuDevice):
    """A card without bf16."""

    kind = "cuda"
    index = 0
    name = "Tesla T4"
    supports_bf16 = False


def test_precisions() -> None:
    card = OldCard()
    assert precision_for(card, "auto") == "fp32"
    assert precision_for(card, "fp16") == "fp16"
    with pytest.raises(MachineError, match=r"GPU 0 \(Tesla T4\) has no bf16"):
        precision_for(card, "bf16")
    with pytest.raises(MachineError, match="`fp16`, which needs a GPU"):
        precision_for(CpuDevice(), "fp16")


def test_asking_for_cards_imports_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from criteria_cli.training import visible, probe, memory, batches\n"
        "visible.visible_devices(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


GIB = 2**30


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A driver that shows one card of 80 GiB: 6 held by others, 4 by our allocator. Gives what
    our process is bound to, as shares of the card."""
    bounds: list[float] = []
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3", total_memory=80 * GIB, uuid="GPU-1", major=9, minor=0
    )
    for name, answer in {
        "device_count": lambda: 1,
        "get_device_properties": lambda _index: properties,
        "mem_get_info": lambda _index: (70 * GIB, 80 * GIB),
        "memory_reserved": lambda _index: 4 * GIB,
        "set_per_process_memory_fraction": lambda share, _index: bounds.append(share),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(cuda, "require_gpu_support", lambda: None)
    return bounds


def test_a_card_and_our_share_of_it(shares: list[float]) -> None:
    card = open_device("cuda")
    assert (card.total_bytes(), card.free_bytes()) == (80 * GIB, 70 * GIB)
    assert card.used_by_others() == 6 * GIB
    assert card.spelled == "cuda:0"
    for cap in (20 * GIB, None, 90 * GIB):
        card.set_cap(cap)
    assert shares == [0.25, 1.0, 1.0]
    with pytest.raises(MachineError, match="GPU 3 does not exist, this machine has 0"):
        open_device("cuda:3")


def test_a_large_card_stands_for_a_smaller_one(
    shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is used on the large card is used on the small one too, and the bound is in bytes."""
    monkeypatch.setenv("CRITERIA_VRAM_LIMIT", "24GiB")
    card = open_device("cuda:0")
    assert (card.total_bytes(), card.free_bytes()) == (24 * GIB, 14 * GIB)
    assert card.used_by_others() == 6 * GIB
    card.set_cap(12 * GIB)
    assert shares == [12 / 80]
    monkeypatch.setenv("CRITERIA_VRAM_LIMIT", "8GiB")
    assert open_device("cuda:0").free_bytes() == 0
    monkeypatch.setenv("CRITERIA_VRAM_LIMIT", "100GiB")
    assert open_device("cuda:0").total_bytes() == 80 * GIB


def test_a_limit_that_is_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("24GB", "24", "half"):
        monkeypatch.setenv("CRITERIA_VRAM_LIMIT", value)
        with pytest.raises(UsageError, match=f"CRITERIA_VRAM_LIMIT must be a size.*`{value}`"):
            visible.visible_devices()
