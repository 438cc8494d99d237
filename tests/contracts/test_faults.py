"""docs/faults.md says what the tests say."""

from __future__ import annotations

from fault_table import TESTS, table


def test_the_table_of_faults_is_up_to_date() -> None:
    assert (TESTS.parent / "docs" / "faults.md").read_text() == table()
