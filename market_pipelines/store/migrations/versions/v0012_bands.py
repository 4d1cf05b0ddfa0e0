"""Price bands (limit up, limit down): a fifth kind of tick in the lake, and a table for those who want them here."""

from market_pipelines.store.migrations.steps import run_sql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql("v0012_bands.sql")
