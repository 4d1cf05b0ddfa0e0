"""What every ability of a provider has to do, whatever it speaks. Subclass with good answers of your own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market import records
from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.intraday import INTERVALS, INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS
from market_pipelines.providers.http import origin
from market_pipelines.providers.protocol import Answer, Call, Capability, DailyProvider, Parsed, abilities_of
from market_pipelines.testing.daily import HTML

RECORDS: Mapping[Capability, type] = {
    Capability.QUOTE: records.Quote,
    Capability.BULK_QUOTES: records.Quote,
    Capability.PROFILE: records.Profile,
    Capability.LISTINGS: records.Listed,
    Capability.SEARCH: records.SymbolMatch,
    Capability.MARKET_STATUS: records.VenueStatus,
    Capability.OPTIONS: records.OptionContract,
}
COLUMNS: Mapping[Capability, tuple[str, ...]] = {
    Capability.DAILY: BAR_COLUMNS,
    Capability.GROUPED_DAILY: BAR_COLUMNS,
    Capability.INTRADAY: INTRADAY_COLUMNS,
    Capability.TRADES: TRADE_COLUMNS,
    Capability.QUOTES_HISTORY: QUOTE_COLUMNS,
    Capability.SECONDS: INTRADAY_COLUMNS,
}
_QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Good:
    """A question and an answer to it that has rows."""

    question: Any
    answer: Answer


class AbilitiesContract(ABC):
    secret: str = ""
    """The key that `provider` was made with."""

    @abstractmethod
    def provider(self) -> DailyProvider: ...

    @abstractmethod
    def good(self) -> Mapping[Capability, Good]:
        """One for every ability that the provider offers."""

    def test_every_ability_has_an_example(self) -> None:
        assert set(self.good()) == set(abilities_of(self.provider()))

    def test_every_ability_reads_its_example(self) -> None:
        for capability, example in self.good().items():
            parsed = self.read(capability, example.question, example.answer)
            assert parsed.outcome is Outcome.OK, f"{capability}: {parsed.outcome} {parsed.reason}"
            assert parsed.rows, capability
            assert_sound(capability, parsed)

    def test_the_same_bytes_give_the_same_rows(self) -> None:
        for capability, example in self.good().items():
            one = self.read(capability, example.question, example.answer)
            other = self.read(capability, example.question, example.answer)
            assert (one.records, one.actions) == (other.records, other.actions), capability
            if one.bars is not None:
                assert other.bars is not None
                pd.testing.assert_frame_equal(one.bars, other.bars)

    def test_intervals_and_sizes_are_declared(self) -> None:
        for capability, ability in abilities_of(self.provider()).items():
            assert ability.most >= 1
            if capability is Capability.INTRADAY:
                assert ability.intervals
                assert set(ability.intervals) <= set(INTERVALS)
            if capability is Capability.BULK_QUOTES:
                assert ability.most > 1

    def test_a_request_shows_no_secret_and_keeps_it_for_its_own_host(self) -> None:
        for capability, example in self.good().items():
            self._check_call(abilities_of(self.provider())[capability].call(example.question))

    def test_a_further_call_shows_no_secret_and_keeps_it_for_its_own_host(self) -> None:
        for capability, example in self.good().items():
            more = self.read(capability, example.question, example.answer).more
            if more is not None:
                self._check_call(more)

    def _check_call(self, call: Call) -> None:
        assert call.provider == self.provider().name
        assert call.endpoint
        if self.secret:
            assert self.secret not in f"{call} {call.url} {dict(call.params)} {dict(call.headers)}"
        if call.secret_params or call.secret_headers:
            assert origin(call.secret_origin) == origin(call.url)

    @pytest.mark.parametrize("body", [b"", b" \r\n ", HTML], ids=["empty", "blank", "a web page"])
    def test_no_data_with_status_200_is_never_ok(self, body: bytes) -> None:
        for capability, example in self.good().items():
            parsed = self.read(capability, example.question, replace(example.answer, body=body, headers={}))
            assert not parsed.outcome.delivered, f"{capability}: {parsed.outcome}"
            assert not parsed.rows
            assert parsed.reason

    @pytest.mark.parametrize(
        ("status", "outcomes"),
        [
            (0, {Outcome.UNAVAILABLE}),
            (429, {Outcome.THROTTLED}),
            (500, {Outcome.UNAVAILABLE}),
            (503, {Outcome.UNAVAILABLE}),
        ],
    )
    def test_a_status_counts_where_the_body_explains_nothing(self, status: int, outcomes: set[Outcome]) -> None:
        for capability, example in self.good().items():
            answer = replace(example.answer, status=status, body=b"", headers={}, failure="cut" if status == 0 else "")
            parsed = self.read(capability, example.question, answer)
            assert parsed.outcome in outcomes, f"{capability}: {parsed.outcome}"

    @given(body=st.binary(max_size=400), status=st.sampled_from([0, 200, 302, 400, 401, 403, 404, 429, 500]))
    @_QUIET
    def test_any_bytes_give_a_typed_outcome(self, body: bytes, status: int) -> None:
        for capability, example in self.good().items():
            answer = replace(example.answer, body=body, status=status)
            assert_sound(capability, self.read(capability, example.question, answer))

    @given(data=st.data())
    @_QUIET
    def test_a_damaged_answer_gives_a_typed_outcome_and_no_bad_row(self, data: st.DataObject) -> None:
        for capability, example in self.good().items():
            body = example.answer.body
            start = data.draw(st.integers(0, len(body)))
            end = data.draw(st.integers(start, min(len(body), start + 60)))
            patch = data.draw(
                st.one_of(st.binary(max_size=20), st.text('0123456789-.,":[]{}\r\nN/Dnul e', max_size=24))
            )
            damaged = body[:start] + (patch if isinstance(patch, bytes) else patch.encode()) + body[end:]
            answer = replace(example.answer, body=damaged)
            assert_sound(capability, self.read(capability, example.question, answer))

    def read(self, capability: Capability, question: Any, answer: Answer) -> Parsed:
        return abilities_of(self.provider())[capability].read(answer, question)


def assert_sound(capability: Capability, parsed: Parsed) -> None:
    """Whatever came in: an outcome with a reason, and rows only of the kind and shape that the ability is about."""
    assert isinstance(parsed, Parsed)
    assert parsed.outcome is Outcome.OK or parsed.reason, f"{capability}: {parsed.outcome} without a reason"
    assert "\n" not in parsed.reason
    if parsed.outcome is not Outcome.OK:
        assert not parsed.rows, f"{capability}: rows beside {parsed.outcome}"
    if parsed.bars is not None:
        assert_rows(capability, parsed.bars)
    kind = RECORDS.get(capability)
    assert all(kind is not None and isinstance(record, kind) for record in parsed.records)
    assert all(isinstance(action, CorporateAction) for action in parsed.actions)
    for record in parsed.records:
        for name in ("price", "strike"):
            value = getattr(record, name, None)
            assert value is None or np.isfinite(value), f"{capability}: {name} {value}"
    for action in parsed.actions:
        assert np.isfinite(action.value)
        assert action.value > 0


def assert_rows(capability: Capability, frame: pd.DataFrame) -> None:
    assert tuple(frame.columns) == COLUMNS[capability]
    assert not frame["symbol"].isna().any()
    when = "session" if "session" in frame else "ts"
    assert not frame[when].isna().any()
    for _, rows in frame.groupby("symbol", observed=True):
        assert rows[when].is_monotonic_increasing, f"{capability}: not in order of time"
    if capability in (Capability.INTRADAY, Capability.SECONDS):
        assert not frame.duplicated(["symbol", "ts"]).any()
    if capability in (Capability.TRADES, Capability.QUOTES_HISTORY):
        assert frame["seq"].dtype == np.int64
    numbers = [name for name in VALUE_COLUMNS if name in frame]
    if capability in (Capability.INTRADAY, Capability.SECONDS):
        assert not np.isinf(frame[numbers].to_numpy(dtype=np.float64)).any()
