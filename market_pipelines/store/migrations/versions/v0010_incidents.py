"""Incidents and their notifications."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0010_incidents.sql")
