"""Settings that `criteria train --from` takes from a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from desk import desks

from criteria_cli import wiring
from criteria_cli.errors import StoreError, UsageError
from criteria_cli.hpo.selection import select, study_record
from criteria_cli.study.final import TrainOrder


@pytest.mark.parametrize("name", ["evil", "evil.key", "model.evil"])
def test_a_parameter_that_no_definition_has_is_damage(name: str, storage: str) -> None:
    with desks(storage, 1) as (desk,):
        desk.whole_trial(0.5)
        order = TrainOrder(
            desk.spec, desk.spec.hyperparameters(), Path(), Path("runs/s"), Path("model")
        )
        assert wiring.order_from_trial(order, storage, "best").trial == 0
        desk.do(
            lambda c, _: c.execute(
                sa.text("update trial_params set param_name = :n where param_name = :o"),
                {"n": name, "o": "learning_rate"},
            )
        )
        with pytest.raises(StoreError, match="of study `s` is damaged"):
            wiring.order_from_trial(order, storage, "best")


def test_trials_keep_their_numbers_beside_one_that_runs(storage: str) -> None:
    with desks(storage, 2) as (other, desk):
        assert other.take().lease.trial == 0
        assert [desk.whole_trial(0.4), desk.whole_trial(0.6)] == [1, 2]
        record = study_record(storage, "s")
        assert [trial.number for trial in record.finished] == [1, 2]
        chosen = select(storage, "s", "best")
        assert (chosen.trial, chosen.score) == (2, pytest.approx(0.6))
        assert chosen.without == (chosen.params,) * 2, "it is the best of both folds"
        assert select(storage, "s", 1).score == pytest.approx(0.4)
        with pytest.raises(UsageError, match="no finished trial 0"):
            select(storage, "s", 0)
