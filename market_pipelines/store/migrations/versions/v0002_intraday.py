"""Intraday bars with their revisions, what a fetch was asked for, and corrections that wait for a person."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0002_intraday.sql")
