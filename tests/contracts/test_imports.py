"""What starting a command costs: no heavy library is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "optuna", "sqlalchemy", "alembic", "sklearn", "numpy", "rich")

PROBE = """
import sys
sys.argv = ["criteria", *sys.argv[1:]]
from criteria_cli.cli.app import main
code = main()
print("\\nmodules", *(name for name in %r if name in sys.modules), code)
"""


def imported(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE % (HEAVY,), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["hpo", "--help"], ["hpoo"]])
def test_help_and_wrong_use_import_nothing_heavy(arguments: list[str]) -> None:
    assert imported(*arguments)[:-1] == []


def test_a_definition_that_cannot_be_read_imports_nothing_heavy() -> None:
    assert imported("hpo", "nowhere.toml")[:-1] == []


def test_the_package_itself_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import criteria_cli"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not any(f" {name}" in done.stderr for name in HEAVY)
