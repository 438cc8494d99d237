"""The setting in effect is read back from torch."""

from collections.abc import Iterator

import pytest
import torch

from criteria_cli.training.tf32 import settle_tf32


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_is_off_for_fp32_and_on_beside_bf16() -> None:
    assert settle_tf32("cuda", "a card", "bf16") is True
    assert torch.backends.cuda.matmul.allow_tf32 is True
    assert settle_tf32("cuda", "a card", "fp32") is False
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_what_torch_says_counts_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 37: it was off for weeks behind a log line that said it was on."""
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    with caplog.at_level("INFO"):
        assert settle_tf32("cuda", "a card", "bf16") is False
    assert caplog.messages == ["a card computes in bf16, TF32 is off"]
    monkeypatch.undo()


def test_a_processor_is_left_alone() -> None:
    before = torch.get_float32_matmul_precision()
    assert settle_tf32("cpu", "a processor", "bf16") is False
    assert torch.get_float32_matmul_precision() == before
