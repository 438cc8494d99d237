"""What people put beside the code stays out of its history."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_data_results_and_stores_are_not_committed() -> None:
    """Trap 45: a corpus that may not be passed on was committed; ours is read from `data/`."""
    assert "--data data/redsm5" in (ROOT / "README.md").read_text()
    assert {"/data/", "runs/", "*.db"} <= set((ROOT / ".gitignore").read_text().splitlines())
