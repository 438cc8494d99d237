"""Where randomness comes from: the trial's seed and the position, nothing else.

Whatever ran before in the process, and wherever a fold was interrupted, the same step draws the
same numbers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Stream = Literal["order", "negatives", "augmentation", "step"]
_STREAMS: dict[Stream, int] = {"order": 1, "negatives": 2, "augmentation": 3, "step": 4}


def generator(stream: Stream, seed: int, fold: int, epoch: int) -> np.random.Generator:
    """Numbers for one purpose in one epoch of one fold."""
    return np.random.Generator(np.random.PCG64(_sequence(stream, seed, fold, epoch)))


def seed_step(seed: int, fold: int, epoch: int, step: int) -> None:
    """Seed torch, on every device, for the dropout of one optimiser step."""
    state = _sequence("step", seed, fold, epoch, step).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


def _sequence(stream: Stream, seed: int, *position: int) -> np.random.SeedSequence:
    # SeedSequence takes non-negative numbers; a trial's seed may be any 64-bit one
    return np.random.SeedSequence([_STREAMS[stream], seed % 2**64, *position])
