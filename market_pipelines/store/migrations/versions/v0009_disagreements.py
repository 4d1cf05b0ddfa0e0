"""What providers say differently of the same bar."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0009_disagreements.sql")
