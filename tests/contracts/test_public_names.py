"""`import criteria_cli` is light, and its public names are there when asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import criteria_cli

PACKAGE = Path(criteria_cli.__file__).parent


@pytest.mark.parametrize("name", sorted(criteria_cli._PUBLIC))
def test_a_public_name_is_loaded_when_it_is_used(name: str) -> None:
    assert getattr(criteria_cli, name).__name__ == name
    assert name in dir(criteria_cli)


def test_type_checkers_are_told_of_the_same_names() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    told = {
        (alias.asname or alias.name): node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == criteria_cli._PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'predictor'"):
        criteria_cli.predictor  # noqa: B018


def test_reading_a_study_imports_no_torch() -> None:
    script = (
        "import sys, criteria_cli\n"
        "criteria_cli.load_study, criteria_cli.train\n"
        "print([name for name in ('torch', 'optuna', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
