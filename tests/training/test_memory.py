"""What a memory model says fits, under any cap, and after memory ran out."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criteria_cli.errors import MachineError
from criteria_cli.training.assumed import assumed_limits
from criteria_cli.training.curves import fit_curve, row_curve
from criteria_cli.training.memory import (
    CPU_TOKENS,
    Curve,
    Limits,
    MemoryModel,
    cap_bytes,
)

MIB = 2**20
GIB = 2**30
MODEL = MemoryModel(
    max_length=512,
    train=Curve(3000 * MIB, 18 * MIB, 0.7 * MIB, 0.001 * MIB),
    evaluate=Curve(2000 * MIB, 1 * MIB, 0.1 * MIB, 0.0),
    optimizer_peak=2900 * MIB,
    train_seconds=Curve(0.03, 0, 1e-4, 1e-7),
    evaluate_seconds=Curve(0.01, 0, 3e-5, 3e-8),
    allocator="expandable",
    reserve_ratio=1.01,
    verified_cap=20 * GIB,
    verified_rows=27,
    verified_evaluate_rows=250,
    resident={"parameters": 700 * MIB},
)


def test_json_round_trip() -> None:
    text = json.dumps(MODEL.to_json(), allow_nan=False)
    assert MemoryModel.from_json(json.loads(text)) == MODEL


def test_the_cap_is_what_is_free_or_ours_less_the_headroom() -> None:
    assert cap_bytes(20 * GIB, 2 * GIB, 3 * GIB) == 19 * GIB
    assert cap_bytes(GIB, 0, 2 * GIB) == 0


@given(st.integers(4, 80), st.integers(4, 80))
def test_a_larger_cap_admits_no_less(one: int, other: int) -> None:
    small, large = sorted((one, other))
    for length in (8, 64, 256, 512):
        less = Limits.under(MODEL, small * GIB)
        more = Limits.under(MODEL, large * GIB)
        assert less.max_rows(length) <= more.max_rows(length)
        assert less.evaluate.max_rows(length) <= more.evaluate.max_rows(length)


def test_what_was_verified_is_admitted_where_it_was_verified() -> None:
    assert Limits.under(MODEL, 20 * GIB).max_rows(512) == 27
    assert Limits.under(MODEL, 10 * GIB).max_rows(512) < 27
    a_row = MODEL.train.per_row(512) * MODEL.reserve_ratio
    assert Limits.under(MODEL, 20 * GIB + int(a_row * 0.9)).max_rows(512) == 27
    assert Limits.under(MODEL, 20 * GIB + int(a_row * 1.1)).max_rows(512) == 28


def test_a_limit_lowered_under_a_small_cap_leaves_more_under_a_large_one() -> None:
    lowered = Limits.under(MODEL, 10 * GIB).lower(7, 512).model
    assert Limits.under(lowered, 10 * GIB).max_rows(512) == 7
    assert 15 < Limits.under(lowered, 20 * GIB).max_rows(512) <= 27
    before = Limits.under(MODEL, 10 * GIB).evaluate.max_rows(512)
    assert Limits.under(lowered, 10 * GIB).evaluate.max_rows(512) == before


@given(
    rows=st.integers(2, 60),
    length=st.sampled_from([8, 64, 128, 512]),
    gib=st.sampled_from([8, 20, 80]),
    evaluation=st.booleans(),
)
def test_a_shape_that_ran_out_is_not_admitted_again(
    rows: int, length: int, gib: int, evaluation: bool
) -> None:
    limits = Limits.under(MODEL, gib * GIB)
    lowered = limits.lower(rows - 1, length, evaluation=evaluation)
    bound = lowered.evaluate if evaluation else lowered.train
    assert bound.max_rows(length) <= rows - 1
    # nor where the lowered model is all that is left of it, as in another worker
    again = Limits.under(MemoryModel.from_json(lowered.model.to_json()), gib * GIB)
    bound = again.evaluate if evaluation else again.train
    assert bound.max_rows(length) <= rows
    untouched, before = (
        (again.train, limits.train) if evaluation else (again.evaluate, limits.evaluate)
    )
    assert untouched.max_rows(512) == before.max_rows(512)


def test_one_row_is_always_tried() -> None:
    limits = Limits.under(MODEL, 1 * GIB)
    assert limits.max_rows(512) == 1
    assert limits.lower(0, 512).max_rows(512) == 1


def test_the_longest_input_that_fits() -> None:
    tight = Limits.under(MODEL, int(3.3 * GIB))
    longest = tight.longest(below=512)
    assert 0 < longest < 512
    assert longest % 8 == 0
    assert MODEL.train.at(1, longest) * MODEL.reserve_ratio <= tight.cap
    assert Limits.under(MODEL, GIB).longest(below=512) == 0


DEBERTA_BASE = SimpleNamespace(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    position_buckets=256,
)


def test_what_is_assumed_covers_what_was_measured() -> None:
    """DeBERTa-v3-base in fp32 took 984 MiB a row at 512 tokens."""
    limits = assumed_limits(
        DEBERTA_BASE, 184_420_000, 512, total_bytes=64 * GIB, free_bytes=32 * GIB
    )
    model = limits.model
    assert 984 * MIB <= model.train.per_row(512) <= 2 * 984 * MIB
    assert model.source == "assumed"
    assert limits.cap == 32 * GIB - int(6.4 * GIB)
    assert limits.max_rows(512) == CPU_TOKENS // 512
    assert limits.max_rows(64) <= CPU_TOKENS // 64


def test_a_small_machine_is_not_overrun() -> None:
    limits = assumed_limits(DEBERTA_BASE, 184_420_000, 512, total_bytes=8 * GIB, free_bytes=7 * GIB)
    rows = limits.max_rows(512)
    assert rows < CPU_TOKENS // 512
    assert limits.model.train.at(rows, 512) < limits.cap


@given(
    base=st.floats(1e6, 1e10),
    row=st.floats(0, 1e8),
    token=st.floats(1e3, 1e6),
    pair=st.floats(0, 1e3),
)
def test_a_curve_is_found_again(base: float, row: float, token: float, pair: float) -> None:
    true = Curve(base, row, token, pair)
    points = [
        (rows, length, true.at(rows, length))
        for rows, length in [(1, 512), (8, 512), (8, 256), (16, 128), (16, 16), (32, 64)]
    ]
    found = fit_curve(points)
    for rows, length, value in points:
        assert found.at(rows, length) == pytest.approx(value, rel=1e-2)
    assert min(found.base, found.row, found.token, found.pair) >= 0


@given(st.lists(st.floats(1.0, 1e9), min_size=1, max_size=4))
def test_a_row_is_never_below_what_was_measured(values: list[float]) -> None:
    lengths = [512, 256, 128, 16]
    curve = row_curve(list(zip(lengths, values, strict=False)))
    for length, value in zip(lengths, values, strict=False):
        assert curve.per_row(length) >= value * (1 - 1e-9)


def test_a_headroom_of_all_memory_is_refused_on_a_processor() -> None:
    with pytest.raises(MachineError, match="leaves nothing of 8 GiB") as error:
        assumed_limits(
            DEBERTA_BASE, 184_420_000, 512, total_bytes=8 * GIB, free_bytes=7 * GIB,
            headroom="8GiB",
        )  # fmt: skip
    assert error.value.code == "machine.memory"
