"""The addresses of databases: one address, as each library wants it spelt, and as a person may see it."""

import re

from market_pipelines.redaction import redact

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")


class DatabaseUnavailable(Exception):
    """PostgreSQL cannot be reached or does not let us in. The message carries no password."""


def libpq_url(url: str) -> str:
    return _with_scheme(url, "postgresql")


def sqlalchemy_url(url: str) -> str:
    """The driver is named, because what a bare `postgresql://` means changed between SQLAlchemy's releases."""
    return _with_scheme(url, "postgresql+psycopg")


def printable_url(url: str) -> str:
    return redact(url)


def _with_scheme(url: str, scheme: str) -> str:
    if _SCHEME.match(url) is None:
        raise DatabaseUnavailable(
            f"{printable_url(url)!r} is not the address of a PostgreSQL database; "
            "DATABASE_URL looks like postgresql://user:password@host:5432/name"
        )
    return _SCHEME.sub(f"{scheme}://", url, count=1)
