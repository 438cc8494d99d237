"""What supervisor and trainer write to each other: one JSON object a line.

To the trainer, on its standard input: a `TrainerSetup`, then any number of `TrialOrder`s, each
followed by verdicts. From the trainer, on a pipe of its own: `Ready`, events, then `Ended` or
`Failed` for each order, and now and then `Learned`. Neither side ever sends text of a post.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from criteria_cli.study.spec import Hyperparameters, StudySpec
from criteria_cli.study.trial import (
    Event,
    FoldReport,
    Outcome,
    TrialRun,
    Verdict,
    event_from_json,
    event_to_json,
)


@dataclass(frozen=True)
class TrainerSetup:
    """What a trainer keeps for its whole life."""

    spec: StudySpec
    base: Path
    """The folder that relative data paths of the definition start from."""
    directory: Path
    """The study's own folder, `runs/NAME`: caches and trials."""
    device: str
    """`cpu` or `cuda:N`, as torch names it in the trainer's environment."""
    threads: int
    """CPU threads for torch."""
    memory: Mapping[str, Any] | None = None
    """The store's memory models as JSON, by key. The trainer knows its own key; where it is not
    among them, it measures and says `Learned`."""


@dataclass(frozen=True)
class TrialOrder:
    """Train this trial."""

    hyperparameters: Hyperparameters
    run: TrialRun


@dataclass(frozen=True)
class Reply:
    """The answer to a report."""

    verdict: Verdict
    to: int | None = None
    """The report's number. None: at once, whatever the trainer is doing."""


@dataclass(frozen=True)
class Ping:
    """The supervisor lives."""


@dataclass(frozen=True)
class Ready:
    """The trainer has its data, model and device."""

    device: str
    """The device's own name, such as `NVIDIA A100-SXM4-40GB`."""
    precision: str
    """What `auto` became: `fp32`, `bf16` or `fp16`."""
    pairs: int
    data_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)
    cut_posts: int = 0
    """Posts too long for the model to read them whole."""
    unread: float = 0.0
    """The share of the posts' tokens that is therefore not read."""


@dataclass(frozen=True)
class Learned:
    """A memory model that was measured, or lowered after memory ran out, for the store to keep."""

    key: str
    """A digest of everything that the model depends on."""
    memory: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """An event of the trial that is trained."""

    event: Event
    number: int | None = None
    """Epoch and fold reports are numbered, and wait for the reply with this number."""


@dataclass(frozen=True)
class Ended:
    """The order is done."""

    outcome: Outcome


@dataclass(frozen=True)
class Failed:
    """The order cannot be done, or the trainer cannot start."""

    cause: str
    """A word of `CAUSES`."""
    message: str
    hint: str = ""
    code: str = ""
    """The error's own name, such as `data.no_column`."""
    kind: Literal["trial", "usage", "machine"] = "trial"
    """Whether the trial failed, the study cannot be run, or this machine cannot run it."""


Order = TrainerSetup | TrialOrder | Reply | Ping
Answer = Ready | Learned | Ended | Failed | Said


def order_to_json(order: Order) -> dict[str, Any]:
    """An order as a JSON object."""
    if isinstance(order, TrainerSetup):
        return {
            "do": "setup",
            "spec": order.spec.to_json(),
            "base": str(order.base),
            "directory": str(order.directory),
            "device": order.device,
            "threads": order.threads,
            "memory": dict(order.memory) if order.memory is not None else None,
        }
    if isinstance(order, TrialOrder):
        return {
            "do": "trial",
            "hyperparameters": order.hyperparameters.to_json(),
            "number": order.run.number,
            "seed": order.run.seed,
            "directory": str(order.run.directory),
            "attempt": order.run.attempt,
            "finished": [asdict(fold) for fold in order.run.finished],
        }
    if isinstance(order, Reply):
        return {"do": "reply", "verdict": order.verdict.value, "to": order.to}
    return {"do": "ping"}


def order_from_json(value: Mapping[str, Any]) -> Order:
    """The inverse of `order_to_json`."""
    match value["do"]:
        case "setup":
            return TrainerSetup(
                spec=StudySpec.from_json(value["spec"]),
                base=Path(value["base"]),
                directory=Path(value["directory"]),
                device=value["device"],
                threads=value["threads"],
                memory=value["memory"],
            )
        case "trial":
            return TrialOrder(
                hyperparameters=Hyperparameters.from_json(value["hyperparameters"]),
                run=TrialRun(
                    value["number"],
                    value["seed"],
                    Path(value["directory"]),
                    value["attempt"],
                    tuple(FoldReport(**fold) for fold in value["finished"]),
                ),
            )
        case "reply":
            return Reply(Verdict(value["verdict"]), value["to"])
        case "ping":
            return Ping()
        case other:
            raise ValueError(f"unknown order `{other}`")


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer as a JSON object with its kind under `event`."""
    match answer:
        case Ready():
            return {"event": "ready", **asdict(answer)}
        case Learned():
            return {"event": "learned", "key": answer.key, "memory": dict(answer.memory)}
        case Ended():
            return {"event": "ended", **asdict(answer.outcome)}
        case Failed():
            return {"event": "failed", **asdict(answer)}
        case Said():
            return {"number": answer.number, **event_to_json(answer.event)}


def answer_from_json(value: Mapping[str, Any]) -> Answer:
    """The inverse of `answer_to_json`."""
    fields = dict(value)
    kind = fields.pop("event")
    match kind:
        case "ready":
            return Ready(**fields)
        case "learned":
            return Learned(**fields)
        case "ended":
            folds = tuple(FoldReport(**fold) for fold in fields.pop("folds"))
            return Ended(Outcome(folds=folds, **fields))
        case "failed":
            return Failed(**fields)
        case _:
            number = fields.pop("number")
            return Said(event_from_json({"event": kind, **fields}), number)
