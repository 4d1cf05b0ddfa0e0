"""Live streams: leases, gaps, cursors, what could not be read, and ticks for those who want them in PostgreSQL."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0011_streams.sql")
