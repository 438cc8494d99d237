"""A simulated card counts what a step really allocates, and fails as a real one does."""

import gc

import pytest
import torch

from criteria_cli.errors import UsageError
from criteria_cli.training.opening import open_device
from criteria_cli.training.replay import is_out_of_memory
from criteria_cli.training.simulated import SimulatedCard

MIB = 2**20


def step(rows: int, layers: int = 4, width: int = 256) -> None:
    modules = [torch.nn.Linear(width, width, bias=False) for _ in range(layers)]
    model = torch.nn.Sequential(*modules)
    model(torch.ones(rows, width)).sum().backward()


def peak(card: SimulatedCard, rows: int) -> int:
    card.reset_peak()
    with card.use():
        step(rows)
    gc.collect()
    return card.peak().requested


def test_bytes_are_those_of_the_tensors() -> None:
    card = SimulatedCard(2**30)
    with card.use():
        kept = torch.zeros(1000, 1000, device=card.torch_device)
        assert card.peak().requested == 4_000_000
        torch.zeros(1000, 1000)  # the host's
        view = kept[10:20].t()
        kept.add_(1)
    assert view.shape == (1000, 10)
    assert card.peak().requested == 4_000_000
    del kept, view
    card.reset_peak()
    assert card.peak().requested == 0


def test_a_step_is_linear_in_its_rows() -> None:
    card = SimulatedCard(2**30)
    one, two, four = (peak(card, rows) for rows in (256, 512, 1024))
    assert four - two == 2 * (two - one) > 0
    card.reset_peak()
    assert card.peak().requested == 0


def test_parameters_made_before_are_counted_when_used() -> None:
    card = SimulatedCard(2**30)
    layer = torch.nn.Linear(512, 512, bias=False)
    with card.use(), torch.no_grad():
        layer(torch.ones(1, 512))
    assert card.peak().requested >= 512 * 512 * 4


def test_copies_on_the_host_are_not_counted() -> None:
    card = SimulatedCard(2**30)
    with card.use():
        weights = torch.ones(512, 512, device=card.torch_device)
        before = card.peak().requested
        copy = torch.empty_like(weights, device="cpu")
        torch._foreach_copy_([copy], [weights])
        torch._foreach_copy_([weights], [copy])
    assert card.peak().requested == before


def test_it_fails_in_the_words_of_a_card() -> None:
    card = SimulatedCard(512 * MIB, context_bytes=500 * MIB)
    with card.use(), pytest.raises(torch.OutOfMemoryError) as raised:
        step(1 << 14)
    assert is_out_of_memory(raised.value)
    assert card.peak().ooms == 1


def test_the_cap_holds_before_the_capacity_does() -> None:
    card = SimulatedCard(2**30)
    card.set_cap(40 * MIB)
    with card.use(), pytest.raises(torch.OutOfMemoryError, match="allowed"):
        step(1 << 14)
    assert card.peak().reserved <= 40 * MIB


def test_others_take_their_part() -> None:
    card = SimulatedCard(2**30, context_bytes=100 * MIB)
    assert card.free_bytes() == 924 * MIB
    card.others_bytes = 900 * MIB
    assert card.free_bytes() == 24 * MIB
    assert card.used_by_others() == 1000 * MIB
    with card.use(), pytest.raises(torch.OutOfMemoryError):
        step(1 << 14)


def test_a_driver_that_spills_never_fails() -> None:
    card = SimulatedCard(32 * MIB, context_bytes=0, spills=True)
    card.set_cap(16 * MIB)
    with card.use():
        step(1 << 14)
    assert card.peak().reserved > 32 * MIB


def test_names() -> None:
    card = open_device("simulated:8GiB,segments,scale=64,others=2GiB,context=1GiB,spills")
    assert isinstance(card, SimulatedCard)
    assert card.total_bytes() == 8 * 2**30
    assert card.free_bytes() == 5 * 2**30
    assert (card.allocator, card.scale, card.spills) == ("segments", 64, True)
    assert open_device(card.spelled).total_bytes() == card.total_bytes()
    for wrong in ("simulated:", "simulated:8GB", "simulated:8GiB,quick", "simulated:8GiB,scale=x"):
        with pytest.raises(UsageError, match="device `simulated:"):
            open_device(wrong)


def test_the_memory_of_a_backward_pass_interrupted_comes_back() -> None:
    card = SimulatedCard(2**30)
    with card.use():
        layer = torch.nn.Linear(512, 512, bias=False, device=card.torch_device)
        resident = card.peak().requested
        card.set_cap(30 * MIB)
        for _ in range(3):
            failed = False
            try:
                layer(torch.ones(1 << 14, 512)).sum().backward()
            except torch.OutOfMemoryError:
                failed = True
            assert failed
            gc.collect()
            card.reset_peak()
            assert card.peak().requested == resident
