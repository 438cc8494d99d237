"""What fits on a device, found out in a process of its own. Imports no torch.

The process is fresh, so nothing of an earlier attempt holds memory, the allocator can be chosen,
and whatever the driver does to it, this process only hears of it. Where the memory model is known
already, nothing is measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from criteria_cli.errors import CriteriaError, MachineError, UsageError, WorkError
from criteria_cli.study.headroom import parse_headroom
from criteria_cli.study.spec import ModelSpec, StudySpec, TrainingSpec
from criteria_cli.training.memory import Limits, MemoryModel
from criteria_cli.training.visible import DeviceFacts, visible_devices

TIMEOUT_S = 600.0
"""The longest a probe may take, waiting for another probe of the same card included."""
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
EXPANDABLE = "expandable_segments:True"
REFUSED = "allocator"
"""What the process answers when the card cannot grow segments."""


@dataclass(frozen=True)
class ProbeSettings:
    """What is probed: one step, on one device."""

    device: str
    """`auto`, `cpu`, `cuda:N` or `simulated:...`."""
    model: ModelSpec
    training: TrainingSpec
    vocabulary: int | None = None
    """Token ids are drawn below this; without it, from all that the model has."""

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "vocabulary": self.vocabulary,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProbeSettings:
        return cls(
            device=value["device"],
            model=ModelSpec.model_validate(value["model"]),
            training=TrainingSpec.model_validate(value["training"]),
            vocabulary=value["vocabulary"],
        )

    @classmethod
    def of(cls, spec: StudySpec, device: str, model_spec: ModelSpec | None = None) -> ProbeSettings:
        """The step that needs most memory among all that the study may sample.

        Args:
            model_spec: which of the study's models, where it samples them.
        """
        model, training = (model_spec or spec.model).model_dump(), spec.training.model_dump()
        for name, section, pick in (
            ("model.max_length", model, max),
            ("model.hidden_dropout", model, max),
            ("model.attention_dropout", model, max),
            ("model.classifier_dropout", model, max),
            ("frozen_layers", training, min),
        ):
            parameter = spec.search.get(name) or spec.search.get(f"training.{name}")
            if parameter is not None:
                key = name.rpartition(".")[2]
                section[key] = pick(value for value in parameter.extremes())
        return cls(device, ModelSpec.model_validate(model), TrainingSpec.model_validate(training))


@dataclass(frozen=True)
class Probed:
    """What a device has, and what fits on it."""

    device: str
    """`cpu`, `cuda:N` or `simulated:...`."""
    name: str
    kind: str
    identity: str
    total_bytes: int
    available_bytes: int
    """Free, or held by this process, before anything was measured."""
    used_bytes: int
    """Held by others, the driver's own part of this process included."""
    cap_bytes: int
    """What a process of ours may hold: what is available less the headroom."""
    headroom_bytes: int
    precision: str
    key: str | None
    """Names the memory model; None where it was assumed."""
    cached: bool
    elapsed_s: float
    train_rows: int
    """The largest training micro-batch at full length."""
    evaluate_rows: int
    steps: int
    """Measured steps that found `train_rows`; 0 if nothing was measured."""
    further_steps: int
    """Measured steps for other lengths and for evaluation."""
    ooms: int
    verified: bool
    """A real step of that size ran within a cap no larger than this one."""
    contended: bool
    memory: MemoryModel
    source: str = "device"
    """What limits the memory: `device`, or of a CPU `control group` or `machine`."""

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes of parameters, gradients and optimiser state."""
        return self.memory.resident

    @property
    def limits(self) -> Limits:
        return Limits.under(self.memory, self.cap_bytes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Probed:
        return cls(**{**value, "memory": MemoryModel.from_json(value["memory"])})


@dataclass(frozen=True)
class Unusable:
    """One of several devices, on which not one pair fits."""

    card: DeviceFacts
    error: MachineError


def probe(
    settings: ProbeSettings,
    *,
    known: Mapping[str, Any] | None = None,
    refresh: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Probed:
    """What fits on a device: from a known memory model, or else measured.

    Args:
        known: memory models as JSON by key, as the store keeps them.
        refresh: measure whatever is known.

    Raises:
        MachineError: no such device, not one pair fits, or the process dies or does not answer.
        UsageError: the model or the headroom cannot be used.
    """
    parse_headroom(settings.training.vram_headroom)
    request = settings.to_json() | {"known": dict(known or {}), "refresh": refresh}
    environment = dict(os.environ)
    if _may_grow_segments():
        environment[ALLOCATOR_VARIABLES[0]] = EXPANDABLE
    answer = _ask(request, environment, timeout_s)
    if answer.get("refused") == REFUSED:
        environment.pop(ALLOCATOR_VARIABLES[0])
        answer = _ask(request, environment, timeout_s)
    if "error" in answer:
        raise _as_raised(answer["error"])
    return Probed.from_json(answer["probed"])


def probe_all(
    spec: StudySpec,
    device: str = "auto",
    *,
    known: Mapping[str, Any] | None = None,
    refresh: bool = False,
) -> tuple[Probed | Unusable, ...]:
    """`probe` of the study's step on one device, or with `auto` on every visible one.

    A card of the same kind as one before it is answered from that one's memory model, under its
    own cap.

    Raises:
        MachineError: as `probe`, where it is so of every device.
        UsageError: as `probe`.
    """
    cards = visible_devices() if device == "auto" else ()
    if not cards:
        name = "cpu" if device == "auto" else device
        return (probe(ProbeSettings.of(spec, name), known=known, refresh=refresh),)
    found: list[Probed | Unusable] = []
    learned = dict(known or {})
    measured: set[tuple[str, int]] = set()
    for card in cards:
        kind = card.name, card.total_bytes
        fresh = refresh and kind not in measured
        try:
            probed = probe(ProbeSettings.of(spec, card.device), known=learned, refresh=fresh)
        except MachineError as error:
            found.append(Unusable(card, error))
            continue
        if probed.key is not None and not probed.contended:
            learned[probed.key] = probed.memory.to_json()
            measured.add(kind)
        found.append(probed)
    errors = [one.error for one in found if isinstance(one, Unusable)]
    if len(errors) == len(found):
        raise errors[0]
    return tuple(found)


def _may_grow_segments() -> bool:
    """Expandable segments are tried on native Linux, unless the user has set the allocator."""
    if any(os.environ.get(name) for name in ALLOCATOR_VARIABLES):
        return False
    return sys.platform == "linux" and "microsoft" not in platform.release().lower()


def _ask(
    request: Mapping[str, Any], environment: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "criteria_cli.training.probe_process"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"the probe of `{request['device']}` did not end within {timeout_s:.0f} s",
            hint="set `training.auto_detect_batch_size = false` and a small batch to go on without",
            code="machine.probe",
        ) from None
    if child.returncode != 0:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit {child.returncode}"
        last = child.stderr.strip().splitlines()[-1:]
        raise MachineError(
            f"the probe of `{request['device']}` ended unexpectedly ({how})"
            + (f": {last[0]}" if last else ""),
            code="machine.probe",
        )
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


_RAISED: dict[str, type[CriteriaError]] = {"UsageError": UsageError, "MachineError": MachineError}


def _as_raised(error: Mapping[str, str]) -> CriteriaError:
    kind = _RAISED.get(error["class"], WorkError)
    return kind(error["message"], hint=error["hint"], code=error["code"])
