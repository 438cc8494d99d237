"""Runs the migrations of criteria's own tables, beside Optuna's in the same database.

Users never call this: `criteria hpo` makes the tables. Developers use the `alembic` command with
`CRITERIA_STORAGE` set.
"""

import sqlalchemy as sa

from alembic import context
from criteria_cli.hpo.tables import VERSION_TABLE, metadata
from criteria_cli.hpo.url import storage_url


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=lambda name, kind, _: kind != "table" or name in metadata.tables,
        render_as_batch=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with sa.create_engine(storage_url(None).sqlalchemy).begin() as connection:
        _run(connection)
