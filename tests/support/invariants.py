"""What must hold after any fault: one checker for all tests.

Numbers as in the list of invariants that the tests name: I1 no running trial without a live lease;
I2 the budget exactly, one result a trial; I3 and I4 disk and store agree; I5 checkpoints are whole;
I6 files are private and hold no secret; I7 nothing is left over; I9 one holder of a token.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import sqlalchemy as sa
from processes import Place

from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.tables import attempts, confirmations, folds, leases
from criteria_cli.hpo.url import read_url

SECRET = "s3cr3tPW"


def check(storage: str, runs: Path, name: str, *, target: int, files: bool = True) -> None:
    """Raise AssertionError if a finished study breaks an invariant."""
    engine = reading_engine(read_url(storage))
    try:
        with engine.begin() as connection:
            states = _states(connection, name)
            confirmed = {row.trial: row.source for row in connection.execute(_confirmed(name))}
            _check_states(connection, name, states, confirmed, target)
            _check_attempts(connection, name)
            if files:
                _check_disk(connection, runs / name, name, states, confirmed)
    finally:
        engine.dispose()
    check_files(runs)


def _states(connection: sa.Connection, name: str) -> dict[int, tuple[str, float | None]]:
    rows = connection.execute(
        sa.text(
            "select t.number, cast(t.state as varchar), v.value from trials t "
            "join studies s on s.study_id = t.study_id "
            "left join trial_values v on v.trial_id = t.trial_id where s.study_name = :name"
        ),
        {"name": name},
    ).all()
    numbers = [number for number, _, _ in rows]
    assert len(numbers) == len(set(numbers)), "I2: a trial number or value stands twice"
    return {number: (state, value) for number, state, value in rows}


def _confirmed(name: str) -> sa.Select[tuple[int, int]]:
    return sa.select(confirmations.c.trial, confirmations.c.source).where(
        confirmations.c.study == name
    )


def _check_states(
    connection: sa.Connection,
    name: str,
    states: dict[int, tuple[str, float | None]],
    confirmed: dict[int, int],
    target: int,
) -> None:
    finished = {n for n, (state, _) in states.items() if state in ("COMPLETE", "PRUNED")}
    finished -= {source for trial, source in confirmed.items() if states[trial][0] == "COMPLETE"}
    assert len(finished) == target, f"I2: {len(finished)} finished trials, {target} wanted"
    running = [n for n, (state, _) in states.items() if state == "RUNNING"]
    assert not running, f"I1: trials {running} are left running"
    left = connection.execute(sa.select(leases.c.trial).where(leases.c.study == name)).all()
    assert not left, f"I1: leases {left} are left"


def _check_attempts(connection: sa.Connection, name: str) -> None:
    rows = connection.execute(
        sa.select(attempts)
        .where(attempts.c.study == name)
        .order_by(attempts.c.trial, attempts.c.token)
    ).all()
    told: dict[int, int] = {}
    before = None
    for row in rows:
        if row.outcome in ("complete", "pruned", "failed"):
            told[row.trial] = told.get(row.trial, 0) + 1
        assert row.outcome is not None, f"I1: attempt {row.trial}/{row.token} never ended"
        if before is not None and before.trial == row.trial:
            assert before.ended_at <= row.started_at + 1e-3, (
                f"I9: attempts {before.token} and {row.token} of trial {row.trial} overlap"
            )
            assert row.token == before.token + 1, f"I9: a token of trial {row.trial} is missing"
        before = row
    assert all(count == 1 for count in told.values()), f"I2: told more than once: {told}"


def _check_disk(
    connection: sa.Connection,
    folder: Path,
    name: str,
    states: dict[int, tuple[str, float | None]],
    confirmed: dict[int, int],
) -> None:
    stored: dict[int, dict[int, float]] = {}
    for trial, fold, score in connection.execute(
        sa.select(folds.c.trial, folds.c.fold, folds.c.score).where(folds.c.study == name)
    ):
        stored.setdefault(trial, {})[fold] = score
    best = -1.0
    for number, (state, value) in states.items():
        home = folder / f"trial-{confirmed.get(number, number)}"
        result = _read(home / "result.json")
        if state == "COMPLETE":
            assert result is not None, f"I3: trial {number} is complete without a file"
            assert result["state"] == "complete", f"I3: trial {number} on disk: {result['state']}"
            assert value == result["score"], f"I3: trial {number}: {value} and {result['score']}"
            best = max(best, float(str(result["score"])))
        if state in ("COMPLETE", "PRUNED") and number not in confirmed.values():
            on_disk = _folds_on_disk(home)
            known = stored.get(number, {})
            assert known == on_disk, f"I3: trial {number}, {state}: {known}, on disk {on_disk}"
    complete = [value for state, value in states.values() if state == "COMPLETE" and value]
    assert max(complete, default=-1.0) == best, "I4: the best differs between store and disk"
    _check_checkpoints(folder)


def _folds_on_disk(folder: Path) -> dict[int, float]:
    found = {}
    for path in folder.glob("fold-*.json"):
        content = _read(path)
        assert content is not None, f"I5: {path.name} is not whole"
        report = content["report"]
        assert isinstance(report, dict)
        found[int(report["fold"])] = float(report["score"])
    return found


def _check_checkpoints(folder: Path) -> None:
    for path in folder.glob("trial-*/checkpoint-*.json"):
        content = _read(path)
        assert content is not None, f"I5: {path} is not whole"
        digest = content.pop("sha256")
        own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert digest == own, f"I5: {path} does not match its digest"


def _read(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def check_files(runs: Path) -> None:
    """Private, without a secret, and nothing half-written left (I6, I7)."""
    for path in (runs, *runs.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & 0o077, f"I6: {path.relative_to(runs.parent)} has mode {mode:o}"
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), f"I6: a password in {path.name}"


def outcomes(place: Place) -> list[tuple[int, str | None, str | None]]:
    """(trial, outcome, cause) of every attempt, in order."""
    engine = reading_engine(read_url(place.storage))
    try:
        with engine.begin() as connection:
            rows = connection.execute(
                attempts.select().order_by(attempts.c.trial, attempts.c.token)
            )
            return [(row.trial, row.outcome, row.cause) for row in rows]
    finally:
        engine.dispose()


def trained_twice(folder: Path) -> dict[str, int]:
    """Epochs that were trained more than once, and folds that were begun again after their end."""
    epochs = folds_again = total = 0
    for history in folder.glob("trial-*/history.jsonl"):
        seen: set[tuple[int, int]] = set()
        highest = 0
        for line in history.read_text().splitlines():
            entry = json.loads(line)
            key = (entry["fold"], entry["epoch"])
            total += 1
            epochs += key in seen
            folds_again += entry["fold"] < highest
            highest = max(highest, entry["fold"])
            seen.add(key)
    return {"epochs": total, "epochs_again": epochs, "folds_again": folds_again}
