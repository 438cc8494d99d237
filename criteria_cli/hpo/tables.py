"""Our own tables, beside Optuna's in the same database.

No foreign key crosses the border: trials are referred to by study name and number. Times are
seconds since 1970 by the database's clock. Migrations in `alembic/` make exactly these tables.
"""

from __future__ import annotations

import sqlalchemy as sa

VERSION_TABLE = "criteria_alembic_version"

metadata = sa.MetaData()

_STUDY = sa.String(64)
_WORKER = sa.String(32)

studies = sa.Table(
    "criteria_studies",
    metadata,
    sa.Column("name", _STUDY, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False),
    sa.Column("definition", sa.Text, nullable=False),  # StudySpec.to_json
    sa.Column("identity", sa.Text, nullable=False),  # StudySpec.identity
    sa.Column("data_sha256", sa.String(64), nullable=False),
    sa.Column("pairs", sa.Integer, nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("precision", sa.String(8)),  # what `auto` became on the first worker
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("paused", sa.String(16)),  # the cause of failure that opened the study's breaker
    sa.Column("judged_from", sa.Integer, nullable=False),  # the breaker counts trials from here
    # stopped trials to finish at the end
    sa.Column("confirm", sa.Integer, nullable=False, server_default="0"),
)

workers = sa.Table(
    "criteria_workers",
    metadata,
    sa.Column("id", _WORKER, primary_key=True),
    sa.Column("study", _STUDY, nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("machine", sa.String(200), nullable=False),
    sa.Column("boot", sa.String(36), nullable=False),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("device_name", sa.String(200)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Text),  # the latest live facts
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
)

leases = sa.Table(
    "criteria_leases",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer, nullable=False),  # Optuna's key of the trial
    sa.Column("worker", _WORKER),  # NULL: free for anybody
    sa.Column("token", sa.Integer, nullable=False),  # grows with each holder
    sa.Column("expires_at", sa.Double, nullable=False),  # on the lease clock of `boot`
    sa.Column("boot", sa.String(36), nullable=False),
)

attempts = sa.Table(
    "criteria_attempts",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("token", sa.Integer, primary_key=True),
    sa.Column("worker", _WORKER, nullable=False),
    sa.Column("worker_name", sa.String(200), nullable=False),
    sa.Column("machine", sa.String(200), nullable=False),
    sa.Column("epochs_before", sa.Integer, nullable=False),  # reported when it began
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("outcome", sa.String(16)),  # `hpo.endings.OUTCOMES`
    sa.Column("cause", sa.String(16)),
    sa.Column("message", sa.Text),
)

folds = sa.Table(
    "criteria_folds",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("best_epoch", sa.Integer, nullable=False),
    sa.Column("epochs", sa.Integer, nullable=False),
    sa.Column("report", sa.Text, nullable=False),  # the whole FoldReport
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

epochs = sa.Table(
    "criteria_epochs",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("fold", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("best", sa.Double, nullable=False),
    sa.Column("train_loss", sa.Double),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

decisions = sa.Table(
    "criteria_decisions",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("fold", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer),  # NULL: after the fold
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("incumbent", sa.Integer),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

confirmations = sa.Table(
    "criteria_confirmations",
    metadata,
    sa.Column("study", _STUDY, primary_key=True),
    sa.Column("source", sa.Integer, primary_key=True),  # the stopped trial
    sa.Column("trial", sa.Integer, nullable=False),  # the one that finishes it
    sa.Column("at", sa.Double, nullable=False),
)

probes = sa.Table(
    "criteria_probes",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),  # MemoryModel as JSON
    sa.Column("made_at", sa.Double, nullable=False),
)
