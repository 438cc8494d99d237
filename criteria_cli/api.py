"""The same from Python: read a study, train its best trial, score posts.

```python
from criteria_cli import Predictor, load_study, train

study = load_study("pc_ce")
study.best().params
model = train("pc_ce.toml", trial="best", out="my-model")
Predictor(model.model_dir).predict(["..."])
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from criteria_cli.errors import UsageError

if TYPE_CHECKING:
    from criteria_cli.hpo.facts import StudyStatus
    from criteria_cli.hpo.report_facts import StudyRecord
    from criteria_cli.study.final import TrainedModel
    from criteria_cli.study.spec import Scalar, StudySpec
    from criteria_cli.study.trial import Event, Report, Verdict


@dataclass(frozen=True)
class StudyTrial:
    """A finished trial."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    """The study's metric: of a complete trial its mean over folds, of a pruned one so far."""
    params: Mapping[str, Scalar]
    """What it sampled, by search name."""
    fold_scores: tuple[float, ...]


@dataclass(frozen=True)
class Study:
    """A study in a store; each call reads it anew, and changes nothing."""

    name: str
    storage: str
    """Its address; may hold a password, so `repr` leaves it out."""

    def __repr__(self) -> str:
        return f"Study({self.name!r})"

    def status(self) -> StudyStatus:
        """How far it is, what works on it, what was pruned.

        Raises:
            StoreError: the store cannot be read.
        """
        from criteria_cli import wiring

        return wiring.study_status(self.storage, self.name)

    def definition(self) -> StudySpec:
        """What its first worker froze."""
        from criteria_cli.study.spec import StudySpec

        return StudySpec.from_json(self._record().definition)

    def trials(self) -> tuple[StudyTrial, ...]:
        """Its finished trials in order."""
        record = self._record()
        scores = record.fold_scores()
        return tuple(
            StudyTrial(
                number=trial.number,
                state=_STATES[trial.state.name],
                value=trial.value,
                params=dict(trial.params),
                fold_scores=tuple(scores.get(trial.number, ())),
            )
            for trial in record.study.trials
        )

    def best(self) -> StudyTrial:
        """Its best complete trial.

        Raises:
            UsageError: none is complete yet.
        """
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        if not complete:
            raise UsageError(
                f"study `{self.name}` has no complete trial yet", code="study.no_trial"
            )
        return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))

    def _record(self) -> StudyRecord:
        from criteria_cli import wiring

        return wiring.study_record(self.storage, self.name)


_STATES: dict[str, Literal["complete", "pruned", "failed"]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}


def load_study(name: str, storage: str | None = None) -> Study:
    """A study of a store.

    Args:
        name: its name.
        storage: the store's URL; by default CRITERIA_STORAGE, else `sqlite:///criteria.db`.

    Raises:
        UsageError: no study of this name, naming those that exist.
        StoreError: the store cannot be read.
    """
    from criteria_cli import wiring

    study = Study(name, wiring.storage_address(storage))
    study.status()
    return study


def train(
    study: str | Path,
    *,
    trial: int | Literal["best"] | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
    storage: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> TrainedModel:
    """Train a configuration: all folds for an honest estimate, then a model on all data.

    Args:
        study: a study file, or the name of a bundled definition.
        trial: the study's trial to train; without one, the definition's own settings.
        out: the model directory; by default `runs/NAME/model`.
        data: overrides `data.path`.
        settings: `key.path=value` strings in TOML syntax.
        storage: as `load_study`.
        device: `auto`, `cpu` or `cuda:N`.
        threads: CPU threads; by default OMP_NUM_THREADS, else the cores it may use.
        report: hears the events of `criteria_cli.study.trial` and answers a `Verdict`.

    Raises:
        CriteriaError: as the command `criteria train`.
    """
    from criteria_cli import wiring
    from criteria_cli.study.final import TrainOrder
    from criteria_cli.study.single import refuse_searched, single_definition
    from criteria_cli.training.threads import wanted

    flags = {} if data is None else {"data.path": ("data", str(data))}
    definition = single_definition(str(study), settings=settings, flags=flags)
    if trial is not None:
        refuse_searched(definition)
        definition = wiring.as_frozen(definition, wiring.storage_address(storage))
    spec = definition.spec
    directory = Path(os.environ.get("CRITERIA_RUNS") or "runs").expanduser() / spec.name
    order = TrainOrder(
        spec=spec,
        hyperparameters=spec.hyperparameters(),
        base=definition.base,
        directory=directory,
        out=directory / "model" if out is None else Path(out),
        overwrite=overwrite,
        device=device,
        threads=threads or wanted(),
        seed=spec.validation.seed,
    )
    if trial is not None:
        order = wiring.order_from_trial(order, wiring.storage_address(storage), trial)
    return wiring.train(order, report or _go_on)


def _go_on(_event: Event) -> Verdict:
    from criteria_cli.study.trial import Verdict

    return Verdict.CONTINUE
