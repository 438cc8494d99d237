"""First tables: studies, workers, leases, what trials reported, and memory models."""

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STUDY = sa.String(64)
WORKER = sa.String(32)


def upgrade() -> None:
    _studies_and_workers()
    _leases_and_attempts()
    _reports()
    op.create_table(
        "criteria_probes",
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
    )


def _studies_and_workers() -> None:
    op.create_table(
        "criteria_studies",
        sa.Column("name", STUDY, primary_key=True),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("data_sha256", sa.String(64), nullable=False),
        sa.Column("pairs", sa.Integer, nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("precision", sa.String(8)),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("paused", sa.String(16)),
        sa.Column("judged_from", sa.Integer, nullable=False),
    )
    op.create_table(
        "criteria_workers",
        sa.Column("id", WORKER, primary_key=True),
        sa.Column("study", STUDY, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("machine", sa.String(200), nullable=False),
        sa.Column("boot", sa.String(36), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("device_name", sa.String(200)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Text),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
    op.create_index("ix_criteria_workers_study", "criteria_workers", ["study"])


def _leases_and_attempts() -> None:
    op.create_table(
        "criteria_leases",
        sa.Column("study", STUDY, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True),
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.Column("worker", WORKER),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("boot", sa.String(36), nullable=False),
    )
    op.create_table(
        "criteria_attempts",
        sa.Column("study", STUDY, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True),
        sa.Column("token", sa.Integer, primary_key=True),
        sa.Column("worker", WORKER, nullable=False),
        sa.Column("worker_name", sa.String(200), nullable=False),
        sa.Column("machine", sa.String(200), nullable=False),
        sa.Column("epochs_before", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.String(16)),
        sa.Column("cause", sa.String(16)),
        sa.Column("message", sa.Text),
    )


def _reports() -> None:
    op.create_table(
        "criteria_folds",
        sa.Column("study", STUDY, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True),
        sa.Column("fold", sa.Integer, primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("best_epoch", sa.Integer, nullable=False),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "criteria_epochs",
        sa.Column("study", STUDY, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True),
        sa.Column("fold", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("best", sa.Double, nullable=False),
        sa.Column("train_loss", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "criteria_decisions",
        sa.Column("study", STUDY, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True),
        sa.Column("fold", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("incumbent", sa.Integer),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "criteria_decisions",
        "criteria_epochs",
        "criteria_folds",
        "criteria_attempts",
        "criteria_leases",
        "criteria_workers",
        "criteria_studies",
        "criteria_probes",
    ):
        op.drop_table(table)
