"""How a migration runs its file of SQL."""

from importlib import resources

from alembic import op


def run_sql(name: str) -> None:
    text = resources.files("market_pipelines.store.migrations").joinpath("sql", name).read_text(encoding="utf-8")
    # Without parameters the text goes to the server as it is: any number of statements, `%` and `:` untouched.
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
