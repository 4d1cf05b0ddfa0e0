"""Daily bars, their revisions and actions, reference data, and the ledgers of fetches, jobs and coverage."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0001_daily_bars.sql")
