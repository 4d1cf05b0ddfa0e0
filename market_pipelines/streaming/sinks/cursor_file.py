"""A cursor in a file of its own, for targets that cannot keep it in the transaction that stores the data.

Such a target takes the same rows again after a crash between its answer and this file, so it has to be idempotent.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

from market_pipelines.store.disk import make_folder, sync_folder
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable


class CursorFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Cursor | None:
        """Raises `SinkRefused` for a file that is no cursor: to begin anew unasked would repeat everything."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SinkUnavailable(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            return msgspec.json.decode(content, type=Cursor)
        except msgspec.DecodeError as error:
            raise SinkRefused(f"{self.path} is not a cursor ({error}); delete it to start that sink anew") from None

    def write(self, cursor: Cursor) -> None:
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            make_folder(self.path.parent)
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(cursor))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise SinkUnavailable(f"{self.path} cannot be written: {error.strerror}") from None
