"""The command `retention`: deletes what is old and covered, or says what it would delete."""

from __future__ import annotations

from typing import Annotated

import typer

from market_pipelines.cli.data import platform_of_commands
from market_pipelines.cli.door import Json
from market_pipelines.cli.output import emit_json, emit_table, say, size
from market_pipelines.pipeline.retention import apply_retention


def register(app: typer.Typer) -> None:
    app.command()(retention)


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, say what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what is older than the settings RETENTION_… keep and is covered by something else. Dagster prunes its
    own log in the job `retention`, which does this too, every night."""
    with platform_of_commands(asks=False) as platform:
        report = apply_retention(platform, dry_run=dry_run)
    if as_json:
        emit_json({"at": report.at, "dry_run": report.dry_run, "accounts": report.accounts})
        return
    verb = "would go" if dry_run else "deleted"
    emit_table(
        ("what", "kept", "there", "old", verb, "size", "old, but stays", "because"),
        [
            (one.name, one.keeps, one.total, one.old, one.deleted, size(one.bytes), one.kept, one.why_kept)
            for one in report.accounts
        ],
        numbers=("size",),
    )
    say(f"{report.deleted:,} {verb}, {size(report.bytes)}")
