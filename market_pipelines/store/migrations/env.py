"""Run by Alembic: hands it the connection that `store.schema` opened. There is no other way in."""

from alembic import context
from sqlalchemy import Connection

from market_pipelines.store.schema import SCHEMA, VERSION_TABLE


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        transaction_per_migration=False,
    )
    context.run_migrations()


_run(context.config.attributes["connection"])
