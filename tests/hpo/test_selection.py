"""Settings that `criteria train --from` takes from a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from desk import desks

from criteria_cli import wiring
from criteria_cli.errors import StoreError
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
