"""What the benchmarks compare with is the peer as it should be used."""

from __future__ import annotations

import re
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_trainer_does_not_multiply_gradients_by_its_accumulation_steps() -> None:
    """Trap 43: transformers 5.23 does so with a sequence classifier, unless it is told not to."""
    made = {
        path.name: (
            len(re.findall(r"(?<![.\w])Trainer\((?!\s*TrainerSetup)", source)),
            source.count(".loss_is_scaled_for_ga = False\n"),
        )
        for path in BENCHMARKS.glob("*.py")
        if re.search(r"from transformers import .*\bTrainer\b", source := path.read_text())
    }
    assert made
    for name, (trainers, told) in made.items():
        assert told == trainers > 0, name
