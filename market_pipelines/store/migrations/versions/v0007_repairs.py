"""What is known of each hole: when it was seen, asked for, and is asked for next."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0007_repairs.sql")
