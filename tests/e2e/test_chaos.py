"""Whole studies under fire. `benchmarks/chaos.py` prints the figures of the same runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import run_chaos
from postgres_server import PostgresServer
from processes import Place


@pytest.mark.fault(8)
@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_eight_workers_under_fire_finish_exactly_two_hundred_trials(
    tmp_path: Path, own_server: Callable[..., PostgresServer], kind: str
) -> None:
    server = own_server() if kind == "postgresql" else None
    storage = server.url(server.new_database()) if server else f"sqlite:///{tmp_path / 'store.db'}"
    figures = run_chaos(Place(tmp_path, storage), server=server)
    assert (figures.finished, figures.lost, figures.duplicated) == (200, 0, 0)
    assert figures.folds_again == 0
    assert figures.server_crashes == (3 if server else 0)


def test_three_workers_under_fire(place: Place) -> None:
    figures = run_chaos(place, workers=3, trials=12, every_s=0.7, seed=1, limit_s=120)
    assert (figures.finished, figures.lost, figures.folds_again) == (12, 0, 0)
