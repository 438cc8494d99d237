"""Optuna's storage inside our own transactions.

Optuna commits after every small step, so that a crash between two of them leaves a trial without an
owner, or a report without its decision. Here all steps of one operation belong to one transaction:
Optuna's sessions join the connection that `within` names, and their commits wait for it.

Relies on Optuna 5: `RDBStorage` takes its sessions from `self.scoped_session`, and
`optuna.trial.Trial(study, trial_id)` opens a running trial. Both are held by tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
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
        self.scoped_session = self._session  # type: ignore[assignment]

    def _session(self) -> Session:
        if self._connection is None:
            raise sa.exc.InvalidRequestError("no transaction is open")
        return Session(
            bind=self._connection, join_transaction_mode="rollback_only", expire_on_commit=False
        )

    @contextmanager
    def within(self, connection: sa.Connection) -> Iterator[None]:
        """Let every step of Optuna belong to the connection's transaction."""
        self._connection = connection
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
    rolled back: say `made_trial` in the transaction, and `rolled_back` or `committed` after it.
    """

    def __init__(self, engine: sa.Engine, name: str, pruner: optuna.pruners.BasePruner) -> None:
        self.name = name
        self._storage = JoinedStorage(engine)
        self._pruner = pruner
        self._study: optuna.Study | None = None
        self._unsure = False

    @contextmanager
    def within(self, connection: sa.Connection) -> Iterator[optuna.Study]:
        """The study, for steps within the connection's transaction."""
        with self._storage.within(connection):
            if self._study is None:
                self._study = optuna.load_study(
                    study_name=self.name, storage=self._storage, pruner=self._pruner
                )
            yield self._study

    def made_trial(self) -> None:
        """The transaction has made a trial."""
        self._unsure = True

    def rolled_back(self) -> None:
        """The transaction did not happen, or nobody knows."""
        if self._unsure:
            self._study = None
        self._unsure = False

    def committed(self) -> None:
        """The transaction stands."""
        self._unsure = False
