"""Every environment variable of ours is in the table that `criteria --help` prints."""

from __future__ import annotations

import re
from pathlib import Path

import criteria_cli
from criteria_cli.cli.environment import INTERNAL, VARIABLES, unknown_variables

PACKAGE = Path(criteria_cli.__file__).parent


def test_the_table_is_complete() -> None:
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"[\"'](CRITERIA_[A-Z_]+)[\"']", path.read_text())
    }
    assert named - {"CRITERIA_"} == {*VARIABLES, *INTERNAL} & named
    assert set(VARIABLES) <= named


def test_an_unknown_one_is_named_with_the_nearest() -> None:
    found = list(unknown_variables({"CRITERIA_STORGE": "x", "CRITERIA_RUNS": "y", "PATH": "z"}))
    assert found == ["unknown environment variable CRITERIA_STORGE, did you mean CRITERIA_STORAGE?"]
