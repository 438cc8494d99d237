"""What lies around a command: its streams, its signals, its log and files that nobody expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
STAND_IN = {
    "CRITERIA_TESTING": "1",
    "CRITERIA_TRAINER": str(SUPPORT / "synthetic_trainer.py"),
    "PYTHONPATH": str(SUPPORT),
}


@pytest.mark.parametrize("place", ["trainer.start", "trainer.order"])
def test_the_log_of_a_trainer_that_failed_names_no_home(
    place: str, tmp_path: Path, run_in: Run
) -> None:
    env = {**STAND_IN, "CRITERIA_FAULTS": f"{place}:raise"}
    ran = run_in(tmp_path, "hpo", "demo", "--trials", "1", env=env)
    log = (tmp_path / "runs" / "demo" / "hpo.log").read_text()
    assert ran.code == 1
    assert "criteria_cli/training/serve.py:" in log
    assert " in serve\n" in log
    assert "\nInjected\n" in log
    assert 'File "' not in log
    assert str(ROOT) not in log
