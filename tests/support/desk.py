"""A worker's dealings with the store in this process, without a trainer: claim, report, tell."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from criteria_cli.hpo import rows
from criteria_cli.hpo.claims import Claim, Claimer, Nothing
from criteria_cli.hpo.endings import Ending, finish
from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.identity import Identity, versions_here
from criteria_cli.hpo.leases import Lease
from criteria_cli.hpo.optuna_store import OpenStudy
from criteria_cli.hpo.prepare import prepare
from criteria_cli.hpo.pruning import Decision, optuna_pruner
from criteria_cli.hpo.reports import record
from criteria_cli.hpo.rows import WorkerRow
from criteria_cli.hpo.url import read_url
from criteria_cli.study.spec import StudySpec
from criteria_cli.study.trial import EpochReport, FoldReport

T = TypeVar("T")


def spec_of(**values: Any) -> StudySpec:
    """A small study definition; `values` replace its sections."""
    return StudySpec.from_json(
        {
            "schema": 1,
            "name": "s",
            "data": {"format": "synthetic"},
            "validation": {"folds": 2},
            "training": {"epochs": 2},
            "search": {
                "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
                "batch_size": {"choices": [16, 32]},
            },
            "pruner": {"type": "none"},
            "sampler": {"type": "random"},
            "budget": {"trials": 4},
            **values,
        }
    )


def identity_of(spec: StudySpec, **changes: Any) -> Identity:
    given = {"data_sha256": "d" * 64, "pairs": 100, "versions": versions_here(), **changes}
    return Identity(spec, **given)


@dataclass
class Desk:
    """One worker's view of a store."""

    storage: str
    spec: StudySpec = field(default_factory=spec_of)
    lease_s: float = 60.0
    dead: set[str] = field(default_factory=set)
    may_judge: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.url = read_url(self.storage)
        self.uid = prepare(self.url, identity_of(self.spec))
        self.engine = make_engine(self.url)
        self.opened = OpenStudy(self.engine, self.spec.name, optuna_pruner(self.spec))
        row = WorkerRow(self.id, self.spec.name, "cpu", {})
        self.name = self.do(
            lambda c, _: rows.register(c, row, name="w", uid=self.uid, stale_s=60, shared=True)
        )

    def do(self, work: Callable[[sa.Connection, OpenStudy], T]) -> T:
        """One transaction."""
        try:
            with self.engine.begin() as connection:
                result = work(connection, self.opened)
        except BaseException:
            self.opened.rolled_back()
            raise
        self.opened.committed()
        return result

    @property
    def claimer(self) -> Claimer:
        return Claimer(
            self.spec,
            self.id,
            self.lease_s,
            is_dead=lambda worker: worker in self.dead,
            may_judge=lambda _: self.may_judge,
        )

    def claim(self) -> Claim | Nothing:
        return self.do(self.claimer.claim)

    def take(self) -> Claim:
        """A claim that must succeed."""
        claim = self.claim()
        assert isinstance(claim, Claim), claim
        return claim

    def report(self, lease: Lease, fold: int, score: float, epoch: int | None = None) -> Decision:
        event: EpochReport | FoldReport
        if epoch is None:
            event = FoldReport(fold, score, 1, self.spec.training.epochs)
        else:
            event = EpochReport(fold, epoch, score, score, 0.5, 1.0)
        return self.do(lambda c, o: record(c, o, self.spec, lease, event))

    def tell(self, lease: Lease, *scores: float, outcome: str = "complete", **more: str) -> str:
        folds = tuple(FoldReport(n, score, 1, 2) for n, score in enumerate(scores, 1))
        ending = Ending(outcome, folds, **more)  # type: ignore[arg-type]
        return self.do(lambda c, o: finish(c, o, lease, ending))

    def whole_trial(self, score: float = 0.5) -> int:
        """Claim a trial, report and tell it; its number."""
        lease = self.take().lease
        for fold in range(1, self.spec.validation.fold_count + 1):
            for epoch in range(1, self.spec.training.epochs + 1):
                self.report(lease, fold, score, epoch)
            self.report(lease, fold, score)
        self.tell(lease, *[score] * self.spec.validation.fold_count)
        return lease.trial

    def rows(self, statement: str, **values: Any) -> list[Any]:
        return self.do(lambda c, _: list(c.execute(sa.text(statement), values)))

    def states(self) -> list[str]:
        return [row[0] for row in self.rows("select state from trials order by number")]

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def desks(storage: str, count: int, **values: Any) -> Iterator[list[Desk]]:
    """Several workers on one store."""
    made = [Desk(storage, **values) for _ in range(count)]
    try:
        yield made
    finally:
        for desk in made:
            desk.close()
