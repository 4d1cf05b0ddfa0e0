"""Listings and who bore a ticker when, profiles, claims of corporate actions, quotes, options, venues."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0004_reference.sql")
