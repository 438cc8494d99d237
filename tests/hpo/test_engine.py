"""What connections to the store leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from criteria_cli.hpo.engine import make_engine, reading_engine
from criteria_cli.hpo.url import StoreUrl, read_url


@pytest.mark.parametrize("make", [make_engine, reading_engine])
@pytest.mark.parametrize("fails", [True, False])
def test_a_result_that_was_not_read_through_keeps_nobody_from_writing(
    tmp_path: Path, make: Callable[[StoreUrl], sa.Engine], fails: bool
) -> None:
    url = read_url(f"sqlite:///{tmp_path / 'store.db'}")
    writer = make_engine(url)
    with writer.begin() as connection:
        connection.exec_driver_sql("create table numbers (n integer)")
        connection.exec_driver_sql("insert into numbers values (1), (2), (3)")
    reader = make(url)
    kept: list[object] = []

    def read() -> None:
        with reader.begin() as connection:
            rows = connection.exec_driver_sql("select n from numbers")
            kept.append(rows)
            assert rows.fetchone() == (1,)
            if fails:
                raise ValueError("a row that nobody can read")

    try:
        read()
    except ValueError as error:
        kept.append(error)  # its traceback refers to the rows
    with writer.begin() as connection:
        connection.exec_driver_sql("pragma busy_timeout = 100")
        connection.exec_driver_sql("delete from numbers")
    assert len(kept) == 1 + fails
    reader.dispose()
    writer.dispose()
