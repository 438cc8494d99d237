"""The disk fills up, breaks, turns read-only or loses files while a study runs."""

from __future__ import annotations

import shutil

import pytest
from invariants import check, outcomes, trained_twice
from processes import Place


@pytest.mark.fault(37, 39)
@pytest.mark.parametrize(
    "fault",
    ["trainer.save:enospc@2", "file.sync:edquot@3", "file.rename:eio@4", "file.write:enospc@5"],
)
def test_a_disk_that_says_no_stops_the_worker_and_costs_no_fold(
    sqlite_place: Place, fault: str
) -> None:
    place = sqlite_place.write(trials=1, epochs=4)
    worker = place.start(env={"TRAINER_FAULTS": fault})
    assert worker.end() == 3, worker.text
    assert "results cannot be written" in worker.text
    assert "`runs/s`" in worker.text
    assert outcomes(place) == [(0, "yielded", None)]
    second = place.start()
    assert second.end() == 0, second.text
    for partial in (place.runs / place.name).rglob("*.partial"):
        partial.unlink()  # of the process that was cut off
    check(place.storage, place.runs, place.name, target=1)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == 0
    assert again["epochs_again"] <= 1


@pytest.mark.fault(38)
def test_a_log_that_cannot_be_written_stops_nothing(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=2)
    place.log.parent.mkdir(mode=0o700, parents=True)
    place.log.symlink_to("/dev/full")
    worker = place.start()
    assert worker.end() == 0, worker.text
    assert [outcome for _, outcome, _ in outcomes(place)] == ["complete", "complete"]


@pytest.mark.fault(40)
def test_results_that_have_no_place_stop_everything_before_it_starts(sqlite_place: Place) -> None:
    place = sqlite_place.write()
    place.runs.write_text("a file stands where the folder should be")
    worker = place.start()
    assert worker.end() == 3
    assert "cannot write to `runs/s`: not a directory" in worker.text


@pytest.mark.fault(41)
def test_a_folder_that_is_removed_under_us_is_not_made_anew_with_holes(
    sqlite_place: Place,
) -> None:
    place = sqlite_place.write(trials=1, folds=3, epochs=8)
    worker = place.start()
    worker.wait_for(r"FoldEnded.*fold=1,")
    shutil.rmtree(place.runs / place.name / "trial-0")
    assert worker.end() == 3, worker.text
    assert not (place.runs / place.name / "trial-0").exists()
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1, files=False)
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == 0
    assert "trial=0, fold=1, folds=3, epoch" not in second.text  # the store knew fold 1


@pytest.mark.fault(42)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone", "folder"])
def test_a_damaged_checkpoint_is_not_used(sqlite_place: Place, damage: str) -> None:
    place = sqlite_place.write(trials=1, folds=2, epochs=6)
    worker = place.start(env={"CRITERIA_FAULTS": "report.stored:kill@4"})
    assert worker.end() == -9
    path = place.runs / place.name / "trial-0" / "checkpoint-1.json"
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        changed = content.replace(b"xxxx", b"xxyx", 1)
        path.write_bytes({"cut": content[:-5], "flipped": changed, "empty": b""}[damage])
    second = place.start()
    if damage == "folder":
        assert second.end() == 3, second.text
        path.rmdir()
        second = place.start()
    assert second.end() == 0, second.text
    path.unlink(missing_ok=True)
    check(place.storage, place.runs, place.name, target=1)


@pytest.mark.fault(63)
def test_a_log_that_is_moved_away_is_opened_anew(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=1, epochs=10)
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=2,")
    place.log.rename(place.log.with_suffix(".1"))
    assert worker.end() == 0, worker.text
    assert "TrialEnded" in place.log.read_text()
    assert "TrialEnded" not in place.log.with_suffix(".1").read_text()
