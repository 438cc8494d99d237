"""The synthetic trainer on a card that a scheduler gave it: its device is named after the card."""

from __future__ import annotations

import os
import sys

from synthetic_trainer import SyntheticTrainer

from criteria_cli.training.serve import serve

if __name__ == "__main__":
    os.environ["SYNTHETIC_DEVICE"] = f"card {os.environ.get('CUDA_VISIBLE_DEVICES', 'unknown')}"
    serve(lambda setup, _: SyntheticTrainer(setup), sys.argv[1:])
