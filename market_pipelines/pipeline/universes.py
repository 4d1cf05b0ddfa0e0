"""The shipped universes, `universes/<name>.csv`, found and read. Who stores them is `memberships`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from market_pipelines.market.universes import Universe, UniverseFileError, canonical, read_universe

UNIVERSES_FOLDER = Path(__file__).resolve().parent.parent / "universes"


def universe_names(folder: Path = UNIVERSES_FOLDER) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.csv")))


def load_universe(name: str, folder: Path = UNIVERSES_FOLDER) -> Universe:
    """By its own name or an alias, in any case."""
    return _load(canonical(name, universe_names(folder)), folder)


@lru_cache(maxsize=32)
def _load(name: str, folder: Path) -> Universe:
    path = folder / f"{name}.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UniverseFileError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UniverseFileError(f"{path}: is not UTF-8 text: {error.reason}") from None
    return read_universe(name, text, str(path))
