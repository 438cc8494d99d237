"""A checkpoint is whole or not there; a damaged or foreign one is never used."""

import json
import stat
from pathlib import Path

import pytest
import torch

from criteria_cli.errors import TrialFailed
from criteria_cli.training.checkpoint import Checkpoints


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weights.a": torch.full((3, 2), value), "losses": torch.tensor([value])}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "trial-1" / "checkpoints", 2, "fingerprint")


def folder(tmp_path: Path) -> Path:
    return tmp_path / "trial-1" / "checkpoints"


def test_nothing_saved_is_nothing_found(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    checkpoints.discard()


def test_the_newest_is_found_and_two_are_kept(tmp_path: Path, checkpoints: Checkpoints) -> None:
    for number in range(1, 5):
        checkpoints.save({"epoch": number}, tensors(number))
    found = checkpoints.load()
    assert found is not None
    assert found.position == {"epoch": 4}
    assert torch.equal(found.tensors["weights.a"], torch.full((3, 2), 4.0))
    assert len(list(folder(tmp_path).iterdir())) == 4  # two of tensors, two manifests
    checkpoints.discard()
    assert list(folder(tmp_path).iterdir()) == []


def test_files_are_their_owners_alone(tmp_path: Path, checkpoints: Checkpoints) -> None:
    checkpoints.save({"epoch": 1}, tensors(1))
    assert stat.S_IMODE(folder(tmp_path).stat().st_mode) == 0o700
    for path in folder(tmp_path).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_one_is_left_for_the_one_before(
    tmp_path: Path, checkpoints: Checkpoints, suffix: str, damage: str
) -> None:
    checkpoints.save({"epoch": 1}, tensors(1))
    checkpoints.save({"epoch": 2}, tensors(2))
    newest = max(folder(tmp_path).glob(f"*.{suffix}"))
    content = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    found = checkpoints.load()
    assert found is not None
    assert found.position == {"epoch": 1}
    # and the next save is found again
    checkpoints.save({"epoch": 3}, tensors(3))
    found = checkpoints.load()
    assert found is not None
    assert found.position == {"epoch": 3}


def test_a_crash_while_writing_leaves_the_one_before(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    """Tensors of the next one written, whole or in part, and no manifest yet."""
    checkpoints.save({"epoch": 1}, tensors(1))
    (written,) = folder(tmp_path).glob("*.safetensors")
    following = written.with_name(written.name.replace("000001", "000002"))
    following.write_bytes(written.read_bytes())
    following.with_name(following.name + ".partial").write_bytes(b"half")
    found = checkpoints.load()
    assert found is not None
    assert found.position == {"epoch": 1}
    checkpoints.save({"epoch": 2}, tensors(2))
    found = checkpoints.load()
    assert found is not None
    assert torch.equal(found.tensors["losses"], torch.tensor([2.0]))
    checkpoints.discard()
    assert list(folder(tmp_path).iterdir()) == []


def test_a_planted_link_is_replaced_and_not_followed(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o644)
    folder(tmp_path).mkdir(parents=True)
    planted = folder(tmp_path) / "fold-2-000001.safetensors.partial"
    planted.symlink_to(victim)
    checkpoints.save({"epoch": 1}, tensors(1))
    assert victim.read_text() == "mine"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    (written,) = folder(tmp_path).glob("*.safetensors")
    assert not written.is_symlink()
    assert checkpoints.load() is not None


def test_one_of_other_settings_is_refused(tmp_path: Path, checkpoints: Checkpoints) -> None:
    checkpoints.save({"epoch": 1}, tensors(1))
    other = Checkpoints(folder(tmp_path), 2, "another")
    with pytest.raises(TrialFailed, match="`trial-1/checkpoints` holds checkpoints of other"):
        other.load()


def test_folds_do_not_see_each_others(tmp_path: Path, checkpoints: Checkpoints) -> None:
    checkpoints.save({"epoch": 1}, tensors(1))
    for fold in (1, 22, 12):
        assert Checkpoints(folder(tmp_path), fold, "fingerprint").load() is None
        Checkpoints(folder(tmp_path), fold, "fingerprint").discard()
    assert checkpoints.load() is not None


def test_a_manifest_of_another_schema_is_not_used(tmp_path: Path, checkpoints: Checkpoints) -> None:
    checkpoints.save({"epoch": 1}, tensors(1))
    (manifest,) = folder(tmp_path).glob("*.json")
    content = json.loads(manifest.read_text())
    assert content["schema"] == "criteria.checkpoint/1"
    content["schema"] = "criteria.checkpoint/2"
    manifest.write_text(json.dumps(content))
    assert checkpoints.load() is None


def test_a_full_disk_fails_the_trial_by_name(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(TrialFailed, match="a checkpoint cannot be written: ") as failure:
        Checkpoints(tmp_path / "taken", 1, "f").save({"epoch": 1}, tensors(1))
    assert failure.value.cause == "disk"
    assert str(tmp_path) not in failure.value.message
