"""What every sink has to do, whatever it stores into. Subclasses say how their target is reached and read back.

A subclass gives the fixture `target` (see `SinkTarget`) and, where they differ, `kinds`, `state_only` and `deaths`.
What a sink does after an error is what its runner does: close, open again, go on after the cursor that `open` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol
from unittest.mock import patch

import pyarrow as pa
import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.sinks.protocol import Cursor, Sink, SinkRefused, SinkUnavailable
from market_pipelines_tests.contract.streaming.chunks import JOURNAL, SYMBOLS, chunk, ids, joined, newest_ids


class Killed(BaseException):
    """Where the process would have ended. Nothing in the product catches it."""


class Death(NamedTuple):
    """A named point at which the process ends: when a function is called, as its caller looks it up."""

    where: str
    """Module (or class) and name of what is wrapped: `os.fsync`, `market_pipelines.store.lake.list_segments`."""
    before: bool
    """Whether it ends before the call; otherwise after it."""
    occurrence: int = 1


class SinkTarget(Protocol):
    """One place to store into, empty when the test begins."""

    def sink(self) -> Sink:
        """A new sink on this target, not open yet. Several may be made one after the other."""
        ...

    def read_back(self) -> Sequence[str]:
        """The id of every stored row (`chunks.row_id`), one that is stored twice twice."""
        ...

    def down(self) -> AbstractContextManager[object]:
        """Within the block nobody reaches the target; afterwards it is there again with all that it had."""
        ...

    def refusing(self) -> Sink | None:
        """A sink that the target never lets in: a wrong password, a missing schema. None: there is no such thing."""
        ...


class SinkContract:
    kinds: ClassVar[Sequence[TickKind]] = tuple(TickKind)
    """What of a chunk the target keeps."""
    state_only: ClassVar[bool] = False
    """It keeps the newest row of each symbol and kind only."""
    deaths: ClassVar[Mapping[str, Death]] = {}
    """Points within `write`, by what a person would call them. Each is reached by writing a chunk of `chunks.chunk`."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "death" in metafunc.fixturenames:
            points = self.deaths
            metafunc.parametrize("death", points.values(), ids=[name.replace(" ", "_") for name in points])

    @pytest.fixture
    def target(self) -> SinkTarget:
        raise NotImplementedError

    def chunk(self, number: int, rows: int = 12, symbols: Sequence[str] = SYMBOLS) -> Chunk:
        """What the tests below write. A sink that does not store ticks is given what it does store."""
        return chunk(number, rows=rows, symbols=symbols)

    def expected(self, *chunks: Chunk) -> list[str]:
        """The ids that the target has when it has taken these chunks."""
        return newest_ids(chunks, self.kinds) if self.state_only else ids(chunks, self.kinds)

    def assert_holds(self, target: SinkTarget, *chunks: Chunk) -> None:
        assert sorted(target.read_back()) == self.expected(*chunks)

    # --- what it stores ---------------------------------------------------------------------------------------

    def test_a_new_target_has_no_cursor(self, target: SinkTarget) -> None:
        with opened(target.sink()) as (_, cursor):
            assert cursor is None

    def test_it_stores_what_it_is_given(self, target: SinkTarget) -> None:
        with opened(target.sink()) as (sink, _):
            assert sink.write(self.chunk(0)) > 0
            self.assert_holds(target, self.chunk(0))
            sink.write(self.chunk(1))
        self.assert_holds(target, self.chunk(0), self.chunk(1))

    def test_the_same_chunk_again_changes_nothing(self, target: SinkTarget) -> None:
        with opened(target.sink()) as (sink, _):
            sink.write(self.chunk(0))
            sink.write(self.chunk(0))
            self.assert_holds(target, self.chunk(0))
        with opened(target.sink()) as (sink, cursor):
            sink.write(self.chunk(0))
            assert cursor == Cursor(JOURNAL, self.chunk(0).upto)
        self.assert_holds(target, self.chunk(0))

    def test_symbols_of_any_alphabet_are_stored(self, target: SinkTarget) -> None:
        strange = ("ŻÓŁĆ", "東京", "O:AAPL261218C00200000", "^SPX", "BRK.B", "A B", "O'NEIL", 'Q"Q', "x,y=z")
        given = self.chunk(0, rows=len(strange), symbols=strange)
        with opened(target.sink()) as (sink, _):
            sink.write(given)
        self.assert_holds(target, given)

    def test_a_side_without_a_quote_and_sizes_without_a_number_are_stored(self, target: SinkTarget) -> None:
        given = self.chunk(0)
        tables = dict(given.tables)
        for kind, names in (
            (TickKind.QUOTES, ("bid", "bid_size")),
            (TickKind.SNAPSHOTS, ("bid", "ask", "volume")),
            (TickKind.BANDS, ("limit_down",)),
        ):
            for name in names if kind in tables else ():
                place = tables[kind].schema.get_field_index(name)
                nothing = pa.nulls(len(tables[kind]), tables[kind].schema.field(name).type)
                tables[kind] = tables[kind].set_column(place, tables[kind].schema.field(name), nothing)
        with opened(target.sink()) as (sink, _):
            sink.write(replace(given, tables=tables))
        self.assert_holds(target, given)

    # --- how far it is ----------------------------------------------------------------------------------------

    def test_its_cursor_is_there_for_the_next_one(self, target: SinkTarget) -> None:
        with opened(target.sink()) as (sink, _):
            sink.write(self.chunk(0))
            sink.write(self.chunk(1))
        with opened(target.sink()) as (_, cursor):
            assert cursor == Cursor(JOURNAL, self.chunk(1).upto)

    def test_a_chunk_without_rows_moves_the_cursor(self, target: SinkTarget) -> None:
        with opened(target.sink()) as (sink, _):
            sink.write(replace(self.chunk(0), tables={}, marks=()))
            nothing = {kind: table.slice(0, 0) for kind, table in self.chunk(1).tables.items()}
            sink.write(replace(self.chunk(1), tables=nothing, marks=()))
        with opened(target.sink()) as (_, cursor):
            assert cursor == Cursor(JOURNAL, self.chunk(1).upto)
        assert list(target.read_back()) == []

    def test_another_journal_begins_anew(self, target: SinkTarget) -> None:
        given = replace(self.chunk(1), journal="another", after=0, upto=7)
        with opened(target.sink()) as (sink, _):
            sink.write(self.chunk(0))
            sink.write(given)
        with opened(target.sink()) as (_, cursor):
            assert cursor == Cursor("another", 7)
        self.assert_holds(target, self.chunk(0), given)

    # --- trouble ----------------------------------------------------------------------------------------------

    def test_a_target_that_is_down_loses_and_doubles_nothing(self, target: SinkTarget) -> None:
        sink = target.sink()
        with closing(sink):
            sink.open()
            sink.write(self.chunk(0))
            with target.down():
                with pytest.raises(SinkUnavailable):
                    sink.write(self.chunk(1))
                sink.close()
                with pytest.raises(SinkUnavailable):
                    sink.open()
                sink.close()
            cursor = sink.open()
            assert cursor == Cursor(JOURNAL, self.chunk(0).upto)
            sink.write(self.chunk(1))
            sink.write(self.chunk(2))
        self.assert_holds(target, self.chunk(0), self.chunk(1), self.chunk(2))

    def test_a_target_that_is_down_at_first_is_unavailable(self, target: SinkTarget) -> None:
        sink = target.sink()
        with closing(sink):
            with target.down(), pytest.raises(SinkUnavailable):
                sink.open()
            sink.open()
            sink.write(self.chunk(0))
        self.assert_holds(target, self.chunk(0))

    def test_killed_within_a_batch_it_loses_and_doubles_nothing(self, death: Death, target: SinkTarget) -> None:
        with opened(target.sink()) as (sink, _):
            sink.write(self.chunk(0))
        # Left as it is, as a process that is killed leaves it.
        left = target.sink()
        assert left.open() == Cursor(JOURNAL, self.chunk(0).upto)
        with dying_at(death), pytest.raises(Killed):
            left.write(self.chunk(1))
        with opened(target.sink()) as (sink, cursor):
            assert cursor in (Cursor(JOURNAL, self.chunk(0).upto), Cursor(JOURNAL, self.chunk(1).upto))
            # Read again, the journal may give what was in one chunk together with what came since.
            again = (
                joined(self.chunk(1), self.chunk(2)) if cursor == Cursor(JOURNAL, self.chunk(0).upto) else self.chunk(2)
            )
            sink.write(again)
        self.assert_holds(target, self.chunk(0), self.chunk(1), self.chunk(2))
        left.close()
        self.assert_holds(target, self.chunk(0), self.chunk(1), self.chunk(2))

    def test_one_that_is_not_let_in_says_so(self, target: SinkTarget) -> None:
        sink = target.refusing()
        if sink is None:
            pytest.skip("this target lets everybody in")
        with closing(sink), pytest.raises(SinkRefused) as refused:
            sink.open()
        assert sink.name in str(refused.value).lower() or len(str(refused.value)) > 20, "it says what to do"

    def test_closing_is_safe_at_any_time(self, target: SinkTarget) -> None:
        sink = target.sink()
        sink.close()
        sink.open()
        sink.write(self.chunk(0))
        sink.close()
        sink.close()
        self.assert_holds(target, self.chunk(0))


@contextmanager
def opened(sink: Sink) -> Iterator[tuple[Sink, Cursor | None]]:
    with closing(sink):
        yield sink, sink.open()


@contextmanager
def dying_at(death: Death) -> Iterator[None]:
    path, _, name = death.where.rpartition(".")
    try:
        owner: object = import_module(path)
    except ModuleNotFoundError:
        module, _, kind = path.rpartition(".")
        owner = getattr(import_module(module), kind)
    with patch.object(owner, name, _deadly(getattr(owner, name), death)):
        yield


def _deadly(function: Callable[..., Any], death: Death) -> Callable[..., Any]:
    calls = 0

    def reached(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < death.occurrence:
            return function(*args, **kwargs)
        if not death.before:
            function(*args, **kwargs)
        raise Killed(death.where)

    return reached
