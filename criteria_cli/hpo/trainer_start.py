"""Waiting for a trainer to be ready, or one line about why it cannot be."""

from __future__ import annotations

from criteria_cli.errors import CriteriaError, MachineError, UsageError, WorkError
from criteria_cli.hpo.shared import Shared
from criteria_cli.hpo.trainer_process import Died, TrainerProcess
from criteria_cli.study.messages import Failed, Learned, Ready

_TICK_S = 0.2


def wait_until_ready(trainer: TrainerProcess, shared: Shared) -> Ready | None:
    """Wait until a trainer that was started can take trials.

    Returns:
        What it is ready with. None if it has ended because the command is to end, or because it
        could not hear us for too long, as on a machine that was asleep.

    Raises:
        CriteriaError: the data, model or device cannot be used.
    """
    while not shared.stop.draining.is_set():
        match trainer.hear(_TICK_S):
            case None:
                if trainer.is_stuck(starting=True):
                    raise MachineError(f"the trainer is stuck: {trainer.stop_stuck().message}")
            case Ready() as ready:
                return ready
            case Learned(key, memory):
                shared.learn(key, memory)
            case Failed() as failed:
                raise _startup_error(failed)
            case Died(cause="abandoned"):
                return None
            case Died() as died:
                raise MachineError(
                    f"the trainer cannot start: {died.message}", code="machine.trainer"
                )
            case _:
                continue
    trainer.kill()
    return None


def _startup_error(failed: Failed) -> CriteriaError:
    if failed.kind == "usage":
        return UsageError(failed.message, hint=failed.hint, code=failed.code)
    if failed.kind == "machine" or failed.cause in ("device", "disk"):
        return MachineError(failed.message, hint=failed.hint, code=failed.code)
    if failed.cause in ("data", "model"):
        return UsageError(failed.message, hint=failed.hint, code=failed.code)
    return WorkError(
        f"the trainer cannot start: {failed.message}", hint=failed.hint, code=failed.code
    )
