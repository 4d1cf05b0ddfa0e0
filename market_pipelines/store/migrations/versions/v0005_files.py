"""The manifest of the tick lake, and how far each imported file has been read."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0005_files.sql")
