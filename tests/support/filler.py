"""Fills a store with finished trials, fast: rows as a real study leaves them, by bulk inserts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from desk import identity_of

from criteria_cli.hpo import tables
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.prepare import prepare
from criteria_cli.hpo.url import read_url
from criteria_cli.study.spec import StudySpec

FLOAT = json.dumps(
    {
        "name": "FloatDistribution",
        "attributes": {"step": None, "low": 1e-6, "high": 1e-3, "log": True},
    }
)
SIZES = json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": [16, 32]}})
CHUNK = 20_000


def fill(storage: str, spec: StudySpec, trials: int, *, epochs: int = 1) -> None:
    """Put `trials` finished trials, a third of them complete, into an empty study.

    Args:
        epochs: rows of epochs per fold.
    """
    url = read_url(storage)
    prepare(url, identity_of(spec))
    engine = make_engine(url)
    with engine.begin() as connection:
        study = connection.execute(
            sa.text("select study_id from studies where study_name = :n"), {"n": spec.name}
        ).scalar_one()
        for table, rows in _rows(spec, study, trials, epochs):
            _insert(connection, table, rows)
        if connection.dialect.name == "postgresql":
            for table, key in (("trials", "trial_id"), ("trial_params", "param_id")):
                connection.execute(
                    sa.text(
                        f"select setval(pg_get_serial_sequence('{table}', '{key}'), "
                        f"(select max({key}) from {table}))"
                    )
                )
    if url.is_sqlite:
        with engine.connect() as connection:
            connection.exec_driver_sql("analyze")
    else:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("analyze")
    engine.dispose()


def _insert(connection: sa.Connection, table: str, rows: Iterator[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == CHUNK:
            _write(connection, table, batch)
            batch = []
    if batch:
        _write(connection, table, batch)


def _write(connection: sa.Connection, table: str, batch: list[dict[str, Any]]) -> None:
    columns = list(batch[0])
    target = sa.table(table, *(sa.column(name) for name in columns))
    if connection.dialect.name == "postgresql" and "state" in columns:
        places = [
            f"cast(:{name} as trialstate)" if name == "state" else f":{name}" for name in columns
        ]
        statement = sa.text(
            f"insert into {table} ({', '.join(columns)}) values ({', '.join(places)})"
        )
        connection.execute(statement, batch)
        return
    connection.execute(sa.insert(target), batch)


def _rows(
    spec: StudySpec, study: int, trials: int, epochs: int
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    draw = random.Random(0)
    folds = spec.validation.fold_count
    complete = [number % 3 == 0 for number in range(trials)]
    run = [folds if done else 1 for done in complete]
    scores = [draw.random() for _ in range(trials)]
    rate, size = [10 ** draw.uniform(-6, -3) for _ in range(trials)], [n % 2 for n in range(trials)]
    numbers = range(trials)
    study_key = {"study": spec.name}
    yield "trials", (
        {
            "trial_id": n + 1, "number": n, "study_id": study,
            "state": "COMPLETE" if complete[n] else "PRUNED",
            "datetime_start": "2026-01-01 00:00:00", "datetime_complete": "2026-01-01 01:00:00",
        }
        for n in numbers
    )  # fmt: skip
    yield (
        "trial_values",
        (
            {"trial_id": n + 1, "objective": 0, "value": scores[n], "value_type": "FINITE"}
            for n in numbers
        ),
    )
    yield "trial_params", (
        {
            "param_id": 2 * n + k + 1, "trial_id": n + 1, "param_name": name,
            "param_value": value, "distribution_json": kind,
        }
        for n in numbers
        for k, (name, value, kind) in enumerate(
            (("learning_rate", rate[n], FLOAT), ("batch_size", float(size[n]), SIZES))
        )
    )  # fmt: skip
    yield "trial_intermediate_values", (
        {
            "trial_id": n + 1, "step": fold, "intermediate_value": scores[n],
            "intermediate_value_type": "FINITE",
        }
        for n in numbers
        for fold in range(1, run[n] + 1)
    )  # fmt: skip
    yield tables.folds.name, (
        {
            **study_key, "trial": n, "fold": fold, "score": scores[n], "best_epoch": 1,
            "epochs": epochs, "report": "{}", "token": 1, "at": 1.0,
        }
        for n in numbers
        for fold in range(1, run[n] + 1)
    )  # fmt: skip
    yield tables.epochs.name, (
        {
            **study_key, "trial": n, "fold": fold, "epoch": epoch, "score": scores[n],
            "best": scores[n], "train_loss": 0.5, "seconds": 1.0, "at": 1.0,
        }
        for n in numbers
        for fold in range(1, run[n] + 1)
        for epoch in range(1, epochs + 1)
    )  # fmt: skip
    yield tables.attempts.name, (
        {
            **study_key, "trial": n, "token": 1, "worker": "w", "worker_name": "w",
            "machine": "m", "epochs_before": 0, "started_at": 1.0 + n, "ended_at": 2.0 + n,
            "outcome": "complete" if complete[n] else "pruned",
        }
        for n in numbers
    )  # fmt: skip
    yield tables.decisions.name, (
        {
            **study_key, "trial": n, "fold": 1, "reason": "hyperband", "detail": "{}", "at": 1.0,
        }
        for n in numbers
        if not complete[n]
    )  # fmt: skip
