"""What schedulers do to the processes of a job."""

from __future__ import annotations

import os
import signal

from invariants import check, trained_twice
from processes import Place


def test_a_signal_to_every_process_of_a_job_ends_no_trainer_before_it_has_saved(
    sqlite_place: Place,
) -> None:
    """SLURM sends SIGTERM to all of a job's processes, in no certain order."""
    place = sqlite_place.write(trials=2, epochs=6)
    worker = place.start(env={"SYNTHETIC_EPOCH_S": "0.2"})
    worker.wait_for("EpochEnded")
    (trainer,) = worker.trainers()
    os.kill(trainer, signal.SIGTERM)
    worker.wait_for("EpochEnded", count=3)
    os.kill(trainer, signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 75, worker.text
    assert "killed" not in worker.text
    again = place.start()
    assert again.end() == 0, again.text
    check(place.storage, place.runs, place.name, target=2)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 0
