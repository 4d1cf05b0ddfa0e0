"""Decisions over quarantined rows, and who took them."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0008_quality.sql")
