"""Where the time went: counted by trainers fold by fold, read from the store as one."""

from __future__ import annotations

import pytest
from desk import desks

from criteria_cli.cli.status_screen import study_screen
from criteria_cli.hpo import status
from criteria_cli.hpo.reports import record
from criteria_cli.study.trial import FoldReport

SLOW = {"start_s": 1.0, "data_s": 1.0, "forward_s": 3.0, "backward_s": 5.0, "optimizer_s": 1.0,
        "evaluation_s": 4.0, "store_s": 0.5, "examples_per_s": 10.0, "tokens_per_s": 1000.0,
        "padding": 0.5}  # fmt: skip
FAST = {"forward_s": 10.0, "backward_s": 20.0, "examples_per_s": 30.0, "tokens_per_s": 3000.0,
        "padding": 0.1}  # fmt: skip


def test_costs_of_folds_are_added_and_rates_weighted_by_time(storage: str) -> None:
    with desks(storage, 1) as (desk,):
        assert status.read_study(storage, "s").spent is None
        lease = desk.take().lease
        for fold, costs in ((1, SLOW), (2, FAST)):
            report = FoldReport(fold, 0.5, 1, 2, costs=costs)
            desk.do(lambda c, o, report=report: record(c, o, desk.spec, lease, report))
        found = status.read_study(storage, "s")
    spent = found.spent
    assert spent is not None
    assert spent.folds == 2
    assert spent.seconds["forward"] == 13.0
    assert spent.seconds["evaluation"] == 4.0
    assert spent.examples_per_s == pytest.approx((10 * 10 + 30 * 30) / 40)
    assert spent.padding == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert found.to_json()["spent"]["seconds"]["backward"] == 25.0
    screen = [line.text for line in study_screen(found, storage, 120)]
    place = next(at for at, text in enumerate(screen) if text.startswith("TIME"))
    assert screen[place].startswith("TIME     backward 55%, forward 29%, evaluation 9%")
    assert screen[place + 1].split() == ["25", "pairs/s,", "20%", "padding"]
