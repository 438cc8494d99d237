"""How many stopped trials a study confirms, and which trial confirms which."""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "criteria_studies", sa.Column("confirm", sa.Integer, nullable=False, server_default="0")
    )
    op.create_table(
        "criteria_confirmations",
        sa.Column("study", sa.String(64), primary_key=True),
        sa.Column("source", sa.Integer, primary_key=True),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("criteria_confirmations")
    op.drop_column("criteria_studies", "confirm")
