"""The simulated Stooq besides its daily download, and its bulk zips: led back to the truth by the readers."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, Call, DailyQuery, IntradayQuery, Parsed, QuoteQuery
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.stooq.bulk import read_bulk
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import BODIES, FaultBoard
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import Minutes, grouped, minutes_of
from market_pipelines.simulator.stooq_bulk import EMPTY, HEADER, member_text, write_bulk
from market_pipelines.simulator.truth import Tape, World

WORLD = World()
KO = Instrument("KO", "us", "XNYS", "USD")
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
PKO = Instrument("PKO", "pl", "XWAR", "PLN")
SPX = Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX)
NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
BETWEEN = datetime(2025, 3, 14, 22, 0, tzinfo=UTC)
"""America's clocks have changed, Europe's have not."""
AUTUMN = datetime(2025, 10, 31, 22, 0, tzinfo=UTC)
"""Europe's have, America's have not."""
WINTER = datetime(2025, 1, 15, 22, 0, tzinfo=UTC)
STOOQ = Stooq(None, "http://127.0.0.1:8099/stooq")
SHORT = ("open", "high", "low", "close", "volume")


def ask(call: Call, *faults: str, now: datetime = NOW) -> Answer:
    exchange = Exchange(WORLD, FaultBoard(faults), SimulatedClock(now))
    path = call.url.removeprefix("http://127.0.0.1:8099/stooq")
    delivery = exchange.deliver(Asked("stooq", path, dict(call.params), "", STOOQ.base_url), path)
    return Answer(delivery.reply.status, delivery.reply.body, {}, now, 0.1, endpoint=call.endpoint)


def bars_of(instrument: Instrument, interval: str, *faults: str, now: datetime = NOW, days: int = 10) -> Parsed:
    today = now.date()
    query = IntradayQuery(instrument, interval, today - timedelta(days=days), today, today)
    return STOOQ.read_intraday(ask(STOOQ.intraday_call(query), *faults, now=now), query)


def quotes_of(*instruments: Instrument, faults: tuple[str, ...] = (), now: datetime = NOW) -> Parsed:
    query = QuoteQuery(instruments)
    return STOOQ.read_quote(ask(STOOQ.quote_call(query), *faults, now=now), query)


def listing_of(instrument: Instrument) -> Listing:
    found = WORLD.find(instrument.symbol, instrument.mic)
    assert found is not None
    return found


def truth(instrument: Instrument, length: int, now: datetime, days: int = 10) -> tuple[Minutes, Tape]:
    """Longer bars out of the world's minutes, not restated, and how much they are to be."""
    listing = listing_of(instrument)
    minutes = minutes_of(WORLD, listing, now.date() - timedelta(days=days), now.date(), now)
    return grouped(minutes, length), WORLD.tape(listing, now)


def restated(minutes: Minutes, tape: Tape) -> pd.DataFrame:
    factor = tape.dividend_factor / tape.split_factor
    by_day = dict(zip(tape.sessions.tolist(), factor.tolist(), strict=True))
    stamps = pd.DatetimeIndex(minutes.stamps.astype("datetime64[s]"), tz="UTC")
    each = np.array([by_day.get(stamp.date(), 1.0) for stamp in stamps.tz_convert(tape.calendar.zone)])
    frame = pd.DataFrame({"ts": stamps, **{name: getattr(minutes.bars, name) * each for name in SHORT[:-1]}})
    return frame.assign(volume=minutes.bars.volume / each)


def assert_same(bars: pd.DataFrame | None, expected: pd.DataFrame, *, starts: bool = True) -> None:
    assert bars is not None
    if starts:
        assert (bars["ts"].to_numpy() == expected["ts"].to_numpy()).all()
    for name in SHORT:
        np.testing.assert_allclose(bars[name], expected[name], rtol=6e-6)


@pytest.mark.parametrize("now", [NOW, BETWEEN, AUTUMN, WINTER])
@pytest.mark.parametrize("instrument", [KO, PKO, AAPL])
def test_five_minutes_are_the_truth_in_every_week(instrument: Instrument, now: datetime) -> None:
    parsed = bars_of(instrument, "5min", now=now)
    assert_same(parsed.bars, restated(*truth(instrument, 5, now)))


@pytest.mark.parametrize("now", [NOW, BETWEEN, AUTUMN, WINTER])
@pytest.mark.parametrize("instrument", [KO, PKO])
def test_hours_are_the_truth_and_the_first_begins_at_the_bell(instrument: Instrument, now: datetime) -> None:
    parsed = bars_of(instrument, "60min", now=now)
    minutes, tape = truth(instrument, 60, now)
    assert_same(parsed.bars, restated(minutes, tape), starts=False)
    assert parsed.bars is not None
    days = pd.Index(parsed.bars["ts"].dt.tz_convert(tape.calendar.zone).dt.date)
    for day in set(days):
        assert parsed.bars["ts"][days == day].min() == tape.calendar.times(day).opens


def test_intraday_prices_are_restated_for_a_later_dividend() -> None:
    ex_date = next(each.ex_date for each in reversed(WORLD.tape(listing_of(KO), NOW).actions) if each.value < 5)
    after = datetime.combine(ex_date + timedelta(days=3), datetime.min.time(), UTC)
    parsed = bars_of(KO, "5min", now=after, days=12)
    minutes, tape = truth(KO, 5, after, days=12)
    assert_same(parsed.bars, restated(minutes, tape))
    assert parsed.bars is not None
    assert parsed.bars["close"].iloc[0] < minutes.bars.close[0]


@pytest.mark.parametrize(
    ("now", "hour"), [(NOW, "22:00:00"), (BETWEEN, "21:00:00"), (AUTUMN, "21:00:00"), (WINTER, "22:00:00")]
)
def test_a_close_in_new_york_is_shown_by_warsaws_clock(now: datetime, hour: str) -> None:
    body = ask(STOOQ.quote_call(QuoteQuery((KO,))), now=now).body.decode()
    assert f",{hour}," in body
    (quote,) = quotes_of(KO, now=now).records
    calendar = WORLD.tape(listing_of(KO), now).calendar
    assert quote.at == calendar.times(now.date()).closes


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("stooq.polish_headers=on",),
        ("stooq.headerless=on",),
        ("stooq.with_name=on",),
        ("stooq.headerless=on", "stooq.with_name=on"),
        ("stooq.polish_headers=on", "stooq.with_name=on"),
        ("stooq.separator=semicolon",),
    ],
)
def test_quotes_are_the_last_minutes_however_they_are_written(faults: tuple[str, ...]) -> None:
    parsed = quotes_of(KO, PKO, faults=faults)
    assert [quote.symbol for quote in parsed.records] == ["KO", "PKO"]
    minutes = minutes_of(WORLD, listing_of(KO), NOW.date(), NOW.date(), NOW)
    quote = parsed.records[0]
    assert (quote.price, quote.open, quote.volume) == (
        minutes.bars.close[-1],
        minutes.bars.open[0],
        minutes.bars.volume.sum(),
    )


def test_what_is_not_listed_has_no_value() -> None:
    stranger = Instrument("ZZZZ", "us", "XNYS", "USD")
    for faults in ((), ("stooq.polish_headers=on",), ("stooq.headerless=on",)):
        assert quotes_of(stranger, faults=faults).outcome is Outcome.UNKNOWN_SYMBOL
        parsed = quotes_of(KO, stranger, faults=faults)
        assert [quote.symbol for quote in parsed.records] == ["KO"]
        assert "ZZZZ.US" in parsed.reason


def test_a_volume_may_be_without_a_value() -> None:
    assert quotes_of(KO, faults=("stooq.partial_nd=on",)).records[0].volume is None
    assert quotes_of(SPX).records[0].volume is None


@pytest.mark.parametrize("faults", [("stooq.polish_headers=on",), ("stooq.separator=semicolon",)])
def test_intraday_downloads_are_understood_in_every_dress(faults: tuple[str, ...]) -> None:
    assert_same(bars_of(KO, "5min", *faults).bars, restated(*truth(KO, 5, NOW)))


def test_a_download_without_volume_knows_none() -> None:
    bars = bars_of(KO, "5min", "stooq.no_volume=on").bars
    assert bars is not None
    assert bars["volume"].isna().all()


REFUSED = {
    "no_data": Outcome.EMPTY_UNEXPECTED,
    "no_data_pl": Outcome.EMPTY_UNEXPECTED,
    "daily_limit": Outcome.QUOTA_EXHAUSTED,
    "daily_limit_pl": Outcome.QUOTA_EXHAUSTED,
    "html_limit": Outcome.QUOTA_EXHAUSTED,
    "html_limit_cp1250": Outcome.QUOTA_EXHAUSTED,
    "html_limit_en": Outcome.QUOTA_EXHAUSTED,
    "captcha": Outcome.CHALLENGE,
    "key_page": Outcome.CHALLENGE,
    "proof_of_work": Outcome.CHALLENGE,
    "access_denied": Outcome.CHALLENGE,
    "light_nd": Outcome.UNKNOWN_SYMBOL,
    "light_nd_pl": Outcome.UNKNOWN_SYMBOL,
    "html": Outcome.MALFORMED,
    "empty": Outcome.MALFORMED,
}


@pytest.mark.parametrize("body", sorted(BODIES["stooq"]))
def test_every_body_means_the_same_to_every_question(body: str) -> None:
    fault = f"stooq.body={body}"
    assert bars_of(KO, "5min", fault).outcome is REFUSED[body]
    assert quotes_of(KO, faults=(fault,)).outcome is REFUSED[body]
    daily = DailyQuery(KO, date(2025, 6, 2), NOW.date(), NOW.date())
    assert STOOQ.parse_daily(ask(STOOQ.daily_call(daily), fault), daily).outcome is REFUSED[body]


def test_a_key_can_be_required_for_downloads_and_never_for_quotes() -> None:
    fault = "stooq.key_required=STOOQKEY123"
    assert bars_of(KO, "5min", fault).outcome is Outcome.CHALLENGE
    assert quotes_of(KO, faults=(fault,)).outcome is Outcome.OK
    query = IntradayQuery(KO, "5min", NOW.date(), NOW.date(), NOW.date())
    call = Stooq(SecretStr("STOOQKEY123"), STOOQ.base_url).intraday_call(query)
    sent = replace(call, params={**call.params, "apikey": call.secret_params["apikey"].get_secret_value()})
    assert STOOQ.read_intraday(ask(sent, fault), query).outcome is Outcome.OK


def test_history_that_was_restated_once_more_is_another_history() -> None:
    query = DailyQuery(KO, date(2025, 6, 2), NOW.date(), NOW.date())
    before = STOOQ.parse_daily(ask(STOOQ.daily_call(query)), query).bars
    after = STOOQ.parse_daily(ask(STOOQ.daily_call(query), "stooq.readjusted=-0.5%"), query).bars
    assert before is not None
    assert after is not None
    assert (after["close"][:-1] < before["close"][:-1]).all()
    turnover = [(bars["close"] * bars["volume"])[:-1].to_numpy() for bars in (before, after)]
    np.testing.assert_allclose(turnover[0], turnover[1], rtol=1e-4)


def test_the_history_page_shows_what_the_download_says() -> None:
    query = DailyQuery(KO, date(2025, 5, 1), NOW.date(), NOW.date())
    page = Call("stooq", "daily", f"{STOOQ.base_url}/q/d/", {"s": "ko.us", "i": "d"})
    shown = STOOQ.parse_daily(ask(page), query).bars
    downloaded = STOOQ.parse_daily(ask(STOOQ.daily_call(query)), query).bars
    assert shown is not None
    assert downloaded is not None
    newest = downloaded.tail(len(shown)).reset_index(drop=True)
    pd.testing.assert_frame_equal(shown, newest.assign(volume=newest["volume"].round()), rtol=1e-9)


@pytest.mark.parametrize(
    ("interval", "symbol", "mic", "name"),
    [("d", "KO", "XNYS", "1day"), ("h", "KO", "XNYS", "60min"), ("5", "PKO", "XWAR", "5min")],
)
def test_a_bulk_zip_holds_what_the_site_shows(tmp_path: Path, interval: str, symbol: str, mic: str, name: str) -> None:
    path = tmp_path / f"{interval}_txt.zip"
    written = write_bulk(path, WORLD, BETWEEN, interval=interval, mic=mic, symbols=[symbol])
    members = list(read_bulk(path))
    assert [member.name for member in members] == written
    empty, full = members
    assert EMPTY in empty.name
    assert len(empty.frame) == 0
    assert {empty.interval, full.interval} == {name}
    instrument = Instrument(symbol, "any", mic, "USD")
    if interval == "d":
        query = DailyQuery(instrument, date(1990, 1, 2), BETWEEN.date(), BETWEEN.date())
        site = STOOQ.parse_daily(ask(STOOQ.daily_call(query), now=BETWEEN), query).bars
    else:
        site = bars_of(instrument, name, now=BETWEEN, days=29).bars
    assert site is not None
    frame = full.frame.tail(len(site)).reset_index(drop=True)
    key = "session" if interval == "d" else "ts"
    assert (frame[key] == site[key]).all()
    for column in SHORT:
        np.testing.assert_allclose(frame[column], site[column], rtol=1e-9)


def test_a_bulk_file_looks_like_the_recorded_one() -> None:
    recorded = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "stooq"
    if not (recorded / "bulk_aapl.us.txt").is_file():
        pytest.skip("no recorded answers beside this checkout (bulk_aapl.us.txt)")
    real = (recorded / "bulk_aapl.us.txt").read_bytes().decode()
    made = member_text(WORLD, listing_of(AAPL), NOW, "d")
    assert real.startswith(HEADER)
    assert made.startswith(HEADER)

    def shape(line: str) -> list[Any]:
        cells = line.split(",")
        return [*cells[:2], len(cells[2]), *cells[3:4], cells[9], len(cells)]

    assert shape(made.splitlines()[1]) == shape(real.splitlines()[1])
    assert made.count("\r\n") == made.count("\n")
