"""Writes docs/faults.md: which of the numbered faults have a test, and which not and why.

    python tests/support/fault_table.py > docs/faults.md

Numbers come from `@pytest.mark.fault(...)`; faults that other tests hold are named below.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

FAULTS = {
    1: "out of memory in training", 2: "every trial of one machine runs out of memory",
    3: "out of memory in evaluation alone", 4: "the kernel ends the trainer",
    5: "the trainer aborts", 6: "the trainer is killed at any step",
    7: "the supervisor is killed", 8: "workers killed at random, many of them",
    9: "killed between a claim and its first sign of life", 10: "killed while a trial is adopted",
    11: "killed between the result on disk and in the store",
    12: "a commit whose answer is lost", 13: "two workers claim one queued trial",
    14: "two workers take over the same trial", 15: "a worker frozen for longer than its lease",
    16: "SIGTERM, SIGINT, SIGHUP, SIGUSR1 in each phase", 17: "the second Ctrl-C",
    18: "a storm of signals", 19: "saving takes longer than the grace period",
    20: "a connection is cut", 21: "PostgreSQL crashes", 22: "PostgreSQL is away beyond a lease",
    23: "PostgreSQL is away when a trial ends", 24: "PostgreSQL stays away",
    25: "PostgreSQL is frozen with its connections open", 26: "a slow, cut or silent network",
    27: "more workers than connections", 28: "failover to a read-only server",
    29: "deadlock, serialization failure", 30: "each SQL statement fails once",
    31: "the process ends at each SQL statement", 32: "SQLite is locked", 33: "SQLite is full",
    34: "SQLite is cut, overwritten, empty or another file", 35: "SQLite on a network file system",
    36: "SQLite from a second host", 37: "the disk is full while saving",
    38: "the disk is full under the log", 39: "quota, I/O errors", 40: "no place for results",
    41: "the results are removed while it runs", 42: "a damaged checkpoint",
    43: "a checkpoint of another study", 44: "a checkpoint of another version",
    45: "two workers with different study files", 46: "two workers with different data",
    47: "Optuna's tables are newer or older", 48: "another major version of Optuna",
    49: "clocks that differ or jump", 50: "the loss is no number", 51: "a metric of one class",
    52: "a data loader hangs", 53: "a data loader is killed", 54: "the trainer hangs",
    55: "the GPU is gone", 56: "another process takes the GPU's memory",
    57: "a package is missing on one machine", 58: "the model hub is unreachable",
    59: "workers come late and leave early", 60: "the budget is raised while it runs",
    61: "`status` during all of it", 62: "a closed pipe, a full standard output",
    63: "the log is moved away", 64: "ten thousand trials in a row",
}  # fmt: skip

ELSEWHERE = {
    1: "tests/training/test_replay.py::test_an_error_in_any_module_changes_nothing",
    3: "tests/training/test_replay.py::test_scoring_survives_and_scores_each_once",
    43: "tests/training/test_checkpoint.py::test_one_of_other_settings_is_refused",
    44: "tests/training/test_checkpoint.py::test_a_manifest_of_another_schema_is_not_used",
    62: "tests/cli/test_commands.py::test_a_closed_pipe_ends_silently",
}
WITHOUT = {
    52: "there are no loader processes; a hang is fault 54",
    53: "there are no loader processes",
    64: "hours; 300 in a row are in `e2e/test_soak.py`, `status` at 10,000 is measured",
}


def tested() -> dict[int, list[str]]:
    """Tests by the number of the fault they inject."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS.parent)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for number in _marked(node):
                found.setdefault(number, []).append(f"{place}::{node.name}")
    for number, test in ELSEWHERE.items():
        path_name, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS.parent / path_name).read_text(), f"{test} is gone"
        found.setdefault(number, []).append(test)
    return found


def _marked(node: ast.FunctionDef) -> list[int]:
    return [
        int(argument.value)  # type: ignore[arg-type]
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    ]


def table() -> str:
    found = tested()
    lines = [
        "# Faults and their tests",
        "",
        "What may go wrong with a study, by number, and the tests that make it go wrong. Made by",
        "`python tests/support/fault_table.py`; a test holds this page to the tests.",
        "",
        "| # | fault | tests |",
        "|---|---|---|",
    ]
    for number, fault in FAULTS.items():
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in found.get(number, []))
        lines.append(f"| {number} | {fault} | {tests or 'none: ' + WITHOUT[number]} |")
    counted = sum(number in found for number in FAULTS)
    return "\n".join([*lines, "", f"{counted} of {len(FAULTS)} have a test.", ""])


if __name__ == "__main__":
    print(table(), end="")
