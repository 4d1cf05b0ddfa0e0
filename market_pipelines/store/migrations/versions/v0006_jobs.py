"""Jobs that people add at run time."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0006_jobs.sql")
