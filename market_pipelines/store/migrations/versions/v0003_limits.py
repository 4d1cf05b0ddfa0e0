"""Limits and breakers of the providers, shared by all processes."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0003_limits.sql")
