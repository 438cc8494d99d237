"""Optuna's storage inside our own transactions.

Optuna commits after every small step, so that a crash between two of them leaves a trial without an
owner, or a report without its decision. Here all steps of one operation belong to one transaction:
Optuna's sessions join the connection that `within` names, and their commits wait for it.

Relies on Optuna 5: `RDBStorage` takes its sessions from `self.scoped_session`,
`optuna.trial.Trial(study, trial_id)` opens a running trial, and that object answers from what it
has read and told. All are held by tests.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.orm import Session

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is told by our events


class JoinedStorage(RDBStorage):
    """Optuna's relational storage, without a connection, a version check or a heartbeat of its own.

    Use it within `within(connection)` alone, from one thread at a time.
    """

    def __init__(self, engine: sa.Engine) -> None:
        # Not the parent's: that would open an engine, create tables and keep the URL as text.
        self.engine = engine
        self.url = ""
        self.engine_kwargs = {}
        self.skip_compatibility_check = True
        self.heartbeat_interval = None
        self.grace_period = None
        self.heartbeat_stale_trial_callback = None
        self.failed_trial_callback = None
        self._connection: sa.Connection | None = None
        self._read = False
        """Whether this transaction has read the study's trials."""
        self.scoped_session = self._session  # type: ignore[assignment]

    def _session(self) -> Session:
        if self._connection is None:
            raise sa.exc.InvalidRequestError("no transaction is open")
        return Session(
            bind=self._connection, join_transaction_mode="rollback_only", expire_on_commit=False
        )

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[optuna.trial.FrozenTrial]:
        """What is new among the trials, for the cache that Optuna keeps. It asks several times in
        one step; in one transaction, while others wait for the lock, once is enough."""
        if self._read and trial_id_greater_than > -1:
            return []
        found = super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        self._read = True
        return found

    @contextmanager
    def within(self, connection: sa.Connection) -> Iterator[None]:
        """Let every step of Optuna belong to the connection's transaction."""
        self._connection, self._read = connection, False
        try:
            yield
        finally:
            self._connection = None


@contextmanager
def joined(engine: sa.Engine, connection: sa.Connection) -> Iterator[JoinedStorage]:
    """Optuna's storage for a few steps within the connection's transaction."""
    storage = JoinedStorage(engine)
    with storage.within(connection):
        yield storage


class OpenStudy:
    """Optuna's study, read once and kept, whose every step joins a transaction of ours.

    Optuna caches trials in memory, so it is read anew after a transaction that made a trial was
    rolled back: say `rolled_back` or `committed` after each.
    """

    def __init__(self, engine: sa.Engine, name: str, pruner: optuna.pruners.BasePruner) -> None:
        self.name = name
        self._storage = JoinedStorage(engine)
        self._pruner = pruner
        self._study: optuna.Study | None = None
        self._unsure = False
        self._trials: dict[int, optuna.trial.Trial] = {}
        """Those we hold leases of, by Optuna's key: nobody else writes to them."""

    @contextmanager
    def within(self, connection: sa.Connection) -> Iterator[optuna.Study]:
        """The study, for steps within the connection's transaction."""
        with self._storage.within(connection):
            if self._study is None:
                self._study = optuna.load_study(
                    study_name=self.name, storage=self._storage, pruner=self._pruner
                )
            yield self._study

    # The rest is called within `within` alone.

    def ask(self) -> optuna.trial.Trial:
        """Make a trial, ours."""
        assert self._study is not None
        self._unsure = True
        trial = self._study.ask()
        self._trials[trial._trial_id] = trial  # noqa: SLF001
        return trial

    def add(self, template: optuna.trial.FrozenTrial) -> optuna.trial.Trial:
        """Make a running trial that begins as `template` says, ours."""
        assert self._study is not None
        self._unsure = True
        storage = self._study._storage  # noqa: SLF001
        study_id = self._study._study_id  # noqa: SLF001
        return self.trial(storage.create_new_trial(study_id, template_trial=template))

    def adopt(self, trial_id: int) -> optuna.trial.Trial:
        """A running trial that has become ours, as it stands now."""
        self.forget(trial_id)
        return self.trial(trial_id)

    def trial(self, trial_id: int) -> optuna.trial.Trial:
        """A running trial of ours, read once."""
        if trial_id not in self._trials:
            assert self._study is not None
            self._trials[trial_id] = optuna.trial.Trial(self._study, trial_id)
        return self._trials[trial_id]

    def report(self, trial_id: int, value: float, step: int) -> None:
        """As `Trial.report`, which warns about and leaves out a step that was told before."""
        trial = self.trial(trial_id)
        trial.storage.set_trial_intermediate_value(trial_id, step, value)
        trial._cached_frozen_trial.intermediate_values[step] = value  # noqa: SLF001

    def forget(self, trial_id: int) -> None:
        """The trial has left us."""
        self._trials.pop(trial_id, None)

    def rolled_back(self) -> None:
        """The transaction did not happen, or nobody knows."""
        if self._unsure:
            self._study = None
        self._trials.clear()
        self._unsure = False

    def committed(self) -> None:
        """The transaction stands."""
        self._unsure = False
