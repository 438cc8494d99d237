"""`--confirm K` with real workers and real deaths."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import sqlalchemy as sa
from invariants import check, trained_twice
from processes import Place

from criteria_cli.hpo.engine import reading_engine
from criteria_cli.hpo.url import read_url

TRIALS = 6


def rows(place: Place, statement: str) -> list[tuple[object, ...]]:
    engine = reading_engine(read_url(place.storage))
    try:
        with engine.begin() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]
    finally:
        engine.dispose()


def confirmed(place: Place) -> int:
    """Checks what must hold of the confirmations; how many there are."""
    found = rows(
        place,
        "select c.source, c.trial, cast(s.state as varchar), cast(t.state as varchar) "
        "from criteria_confirmations c join trials s on s.number = c.source "
        "join trials t on t.number = c.trial order by c.source",
    )
    for source, trial, before, after in found:
        assert (before, after) == ("PRUNED", "COMPLETE")
        values = "select param_name, param_value from trial_params p join trials t using (trial_id)"
        assert sorted(rows(place, f"{values} where t.number = {source}")) == sorted(
            rows(place, f"{values} where t.number = {trial}")
        )
        assert rows(place, f"select * from criteria_decisions where trial = {trial}") == []
        assert not Path(place.runs / place.name / f"trial-{trial}").exists()
    return len(found)


def test_two_workers_and_one_killed_confirm_each_trial_once(place: Place) -> None:
    place.write(trials=TRIALS, folds=3, epochs=2, pruner="hyperband", startup=2)
    killed = place.start(confirm=2, env={"CRITERIA_FAULTS": "confirm.made:kill@1"})
    assert killed.end() == -signal.SIGKILL
    assert len(rows(place, "select number from trials")) == TRIALS, "nothing of the claim stands"
    first = place.start(env={"SYNTHETIC_EPOCH_S": "0.3"})
    first.wait_for(r"TrialStarted.*confirms=")
    first.wait_for(r"EpochEnded.*trial=[67]")
    first.kill()
    others = [place.start(), place.start()]
    assert [other.end() for other in others] == [0, 0], [other.text for other in others]
    assert any("attempt=2" in line and "confirms=" in line for o in others for line in o.lines)
    assert confirmed(place) == 2
    check(place.storage, place.runs, place.name, target=TRIALS)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == 0
    assert again["epochs_again"] <= 1, "the epoch that was killed"


@pytest.mark.parametrize("where", ["report.stored", "tell.told"])
def test_a_kill_while_confirming_loses_and_doubles_nothing(sqlite_place: Place, where: str) -> None:
    place = sqlite_place.write(trials=4, folds=3, epochs=2, pruner="hyperband", startup=2)
    assert place.start().end() == 0
    killed = place.start(confirm=1, env={"CRITERIA_FAULTS": f"{where}:kill@1"})
    assert killed.end() == -signal.SIGKILL
    last = place.start()
    assert last.end() == 0, last.text
    assert confirmed(place) == 1
    check(place.storage, place.runs, place.name, target=4)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == again["epochs_again"] == 0
