"""A small model about to train one batch, and out-of-memory errors wherever one is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from criteria_cli.study.spec import AugmentationSpec, Hyperparameters, ModelSpec, TrainingSpec
from criteria_cli.training.batches import MicroBatch, Planner
from criteria_cli.training.costs import PhaseClock
from criteria_cli.training.devices import CpuDevice, Device
from criteria_cli.training.losses import build_loss
from criteria_cli.training.memory import Bound, Curve, Limits, whole_batches
from criteria_cli.training.model import Encoder, encoder_from_config
from criteria_cli.training.replay import Attempt, run_batch
from criteria_cli.training.resident import ResidentModel
from criteria_cli.training.step import TrainingStep
from criteria_cli.training.token_pairs import TokenBatch

LONGEST = 32
LENGTHS = np.array([30, 8, 24, 16, 31, 9, 12, 28])
TRAINING = TrainingSpec(learning_rate=1e-3)


def limits(rows: int) -> Limits:
    """At most `rows` at once, whatever their length."""
    whole = whole_batches(LONGEST)
    bound = Bound(Curve(token=1.0), Curve(base=1e3, token=1.0), 0.0, rows, LONGEST)
    return Limits(whole.model, whole.cap, bound, bound)


class Setting:
    """A small model about to train one batch.

    Args:
        rows: of a micro-batch before any error.
    """

    def __init__(
        self,
        rows: int,
        *,
        attention: str = "reference",
        dropout: float = 0.0,
        device: Device | None = None,
        double: bool = True,
    ) -> None:
        spec = ModelSpec(
            name="builtin:tiny-deberta-v2",
            max_length=LONGEST,
            attention=attention,
            hidden_dropout=dropout,
            attention_dropout=dropout,
            classifier_dropout=dropout,
        )
        self.device = device or CpuDevice()
        self.planner = Planner(limits(rows))
        scoring = encoder_from_config(spec)
        if double:
            scoring.module.double()
        self.model = ResidentModel(cast(Encoder, scoring), self.device, self.planner, "fp32")
        self._spec, self._rows = spec, rows
        self.anew()
        random = np.random.default_rng(0)
        self.ids = random.integers(5, 2048, (len(LENGTHS), LONGEST), dtype=np.int64)
        self.ids[np.arange(LONGEST) >= LENGTHS[:, None]] = 0
        self.labels = torch.from_numpy(random.integers(0, 2, len(LENGTHS)).astype(np.float64))
        self.at_start: Callable[[], None] = lambda: None

    def anew(self) -> None:
        """Go back to the beginning, with the same model."""
        self.planner.limits = limits(self._rows)
        hyperparameters = Hyperparameters(self._spec, TRAINING, AugmentationSpec())
        self.optimizer = self.model.begin(hyperparameters)
        self.model.module.train()
        clock, loss = PhaseClock(torch.device("cpu")), build_loss(TRAINING, 1, 1)
        self.step = TrainingStep(self.model, self.optimizer, TRAINING, loss, clock)
        self.attempts: list[Attempt] = []

    def part(self, micro_batch: MicroBatch) -> tuple[TokenBatch, Tensor]:
        rows = micro_batch.rows
        tokens = TokenBatch(self.ids[rows, : micro_batch.length], LENGTHS[rows], None)
        return tokens, self.labels[rows]

    def accumulate(self, attempt: Attempt) -> Tensor:
        self.at_start()
        self.attempts.append(attempt)
        return self.step.accumulate((self.part(part) for part in attempt), len(LENGTHS))

    def run(self) -> Tensor:
        """Train the batch; all parameters after the optimiser's step."""
        run_batch(
            LENGTHS,
            self.accumulate,
            planner=self.planner,
            device=self.device,
            parameters=self.step.parameters,
        )
        self.step.update(1e-3)
        return torch.cat([p.detach().flatten() for p in self.model.module.parameters()])


def difference(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


class Injected:
    """Raises an out-of-memory error the n-th time it is passed."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. (injected)")


MICRO_BATCHES = 3
PASSES: dict[tuple[str, str], int] = {}


def hooked(module: torch.nn.Module, direction: str, hook: Any) -> Any:
    if direction == "forward":
        return module.register_forward_pre_hook(hook)
    # the gradient of its output, for that of its input does not exist in an embedding
    return module.register_forward_hook(lambda _m, _i, output: output.register_hook(hook) and None)


def passes(setting: Setting, leaf: str, direction: str) -> int:
    """How often one micro-batch goes through a module."""
    if (leaf, direction) not in PASSES:
        count = Injected(0)
        hook = hooked(setting.model.module.get_submodule(leaf), direction, count)
        setting.run()
        hook.remove()
        setting.anew()
        PASSES[leaf, direction] = -count.left // MICRO_BATCHES
    return PASSES[leaf, direction]


def leaves(setting: Setting) -> list[str]:
    """Modules without parts that a step goes through; dropout at rate 0 does nothing."""
    named = setting.model.module.named_modules()
    found = [
        name
        for name, module in named
        if not list(module.children()) and not isinstance(module, torch.nn.Dropout)
    ]
    return [name for name in found if passes(setting, name, "forward")]


def interrupted(setting: Setting, leaf: str, direction: str, micro_batch: int) -> Tensor:
    """All parameters after a batch that ran out once: in this module, in the n-th micro-batch."""
    setting.anew()
    module = setting.model.module.get_submodule(leaf)
    inject = Injected(passes(setting, leaf, direction) * (micro_batch - 1) + 1)
    hook = hooked(module, direction, inject)
    final = setting.run()
    hook.remove()
    assert inject.left <= 0
    assert setting.attempts[0].begun is setting.attempts[0].plan[micro_batch - 1]
    assert len(setting.attempts) == 2
    return final


class FailAt(TorchDispatchMode):
    """Fails before the n-th operation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.inject = Injected(at)
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        self.inject()
        return func(*args, **(kwargs or {}))
