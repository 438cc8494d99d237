"""Headroom is bytes: of a share, a share of the card's total (trap 18)."""

import pytest

from criteria_cli.study.headroom import Headroom, parse_headroom, parse_size

GIB = 2**30


@pytest.mark.parametrize(
    ("value", "total", "kept"),
    [
        (0.10, 24 * GIB, int(2.4 * GIB)),
        ("10%", 80 * GIB, 8 * GIB),
        ("0.1", 8 * GIB, int(0.8 * GIB)),
        ("2GiB", 8 * GIB, 2 * GIB),
        (" 512 MiB ", 8 * GIB, 512 * 2**20),
    ],
)
def test_bytes_to_leave_free(value: float | str, total: int, kept: int) -> None:
    assert abs(parse_headroom(value).of(total) - kept) <= 1


@pytest.mark.parametrize("value", [0, 0.0, "0", "0%", "0 GiB", 0.9, "95%", -0.1, 1])
def test_nothing_and_nearly_everything_are_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        parse_headroom(value)


@pytest.mark.parametrize("value", ["2 GB", "2G", "much", "", "10 percent", "-1GiB", "1e3"])
def test_other_forms_are_refused_and_the_right_ones_named(value: str) -> None:
    with pytest.raises(ValueError, match=r"`10%`.*`2GiB`"):
        parse_headroom(value)


def test_sizes_are_binary() -> None:
    assert parse_size("1.5GiB") == 3 * 2**29
    assert parse_size("7B") == 7
    with pytest.raises(ValueError, match="`24GB`"):
        parse_size("24GB")


def test_shown_as_typed() -> None:
    assert str(parse_headroom("10%")) == "10%"
    assert str(Headroom(size_bytes=2 * GIB)) == "2 GiB"
