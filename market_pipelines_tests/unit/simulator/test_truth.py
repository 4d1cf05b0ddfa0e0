from datetime import UTC, date, datetime
from itertools import pairwise

import numpy as np
import pytest

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.listings import Listing, all_listings
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, TICKS, History, World, make_history

NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
WORLD = World()


def listing(symbol: str, mic: str = "XNYS") -> Listing:
    found = WORLD.find(symbol, mic)
    assert found is not None, symbol
    return found


def history(symbol: str, mic: str = "XNYS") -> History:
    return WORLD.history(listing(symbol, mic), NOW)


def close_on(of: History, day: date) -> float:
    return float(of.bars.close[of.sessions == np.datetime64(day)][0])


@pytest.mark.parametrize(("symbol", "mic"), [("AAPL", "XNYS"), ("PKO", "XWAR"), ("SIMH", "XNYS")])
def test_a_bar_does_not_depend_on_the_year_in_which_it_is_asked_for(symbol: str, mic: str) -> None:
    early = WORLD.history(listing(symbol, mic), datetime(2021, 3, 1, tzinfo=UTC))
    late = WORLD.history(listing(symbol, mic), datetime(2026, 11, 20, tzinfo=UTC))
    count = len(early.sessions)
    assert len(late.sessions) > count
    assert (late.sessions[:count] == early.sessions).all()
    for column in ("open", "high", "low", "close", "volume"):
        assert (getattr(late.bars, column)[:count] == getattr(early.bars, column)).all(), column
    last = early.sessions[-1].astype(date)
    assert early.actions == tuple(action for action in late.actions if action.ex_date <= last)


def test_two_worlds_of_one_seed_are_equal_and_of_two_seeds_are_not() -> None:
    calendar = trading_calendar("XNYS", NOW)
    one, same, other = (make_history(seed, listing("MSFT"), calendar) for seed in (1, 1, 2))
    assert (one.bars.close == same.bars.close).all()
    assert (one.bars.close != other.bars.close).mean() > 0.9


def test_no_two_shares_move_alike() -> None:
    first, second = (np.diff(np.log(history(symbol).bars.close[-2500:])) for symbol in ("JPM", "KO"))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.8


@pytest.mark.parametrize("share", all_listings(), ids=lambda share: f"{share.symbol}-{share.mic}")
def test_every_bar_is_possible(share: Listing) -> None:
    of = WORLD.history(share, NOW)
    bars = of.bars
    calendar = trading_calendar(share.mic, NOW)
    assert len(of.sessions) > 100
    assert {day.astype(date) for day in of.sessions} <= set(calendar.all_sessions)
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.low > 0).all()
    assert (bars.volume >= 1).all()
    assert np.allclose(bars.close, np.round(bars.close, 2), atol=1e-9)
    assert np.allclose(bars.high, np.round(bars.high, 4), atol=1e-9)


@pytest.mark.parametrize(("symbol", "mic"), [("LPP", "XWAR"), ("AAPL", "XNYS"), ("AZN", "XLON"), ("7203", "XTKS")])
def test_prices_are_on_the_ticks_of_their_size(symbol: str, mic: str) -> None:
    close = history(symbol, mic).bars.close
    bands = [*TICKS[mic], (float("inf"), 1.0)]
    for (floor, step), (ceiling, _) in pairwise(bands):
        steps = close[(close >= floor) & (close < ceiling)] / step
        assert np.allclose(steps, np.round(steps), rtol=0, atol=1e-6), floor


def test_the_listing_names_each_spelling_once() -> None:
    for provider in ("yahoo", "stooq", "alpha_vantage"):
        spelled = [share.spelled_by(provider) for share in all_listings() if share.spelled_by(provider)]
        assert len(spelled) == len(set(spelled)), provider


def test_the_listing_lies_on_real_sessions() -> None:
    for share in all_listings():
        calendar = trading_calendar(share.mic, NOW)
        days = [share.first_session, *(day for day, _ in share.splits)]
        days += [share.delisted_on] if share.delisted_on else []
        assert [day for day in days if not calendar.is_session(day)] == [], share.symbol


def test_the_markets_are_large_enough_for_what_ships() -> None:
    listed = {(share.symbol, share.mic) for share in all_listings()}
    assert sum(mic == "XNYS" for _, mic in listed) >= 60
    wig20 = {"PKO", "PKN", "PEO", "PZU", "KGH", "ALE", "LPP", "DNP", "SPL", "CDR", "MBK", "PGE", "ALR", "ZAB"}
    wig20 |= {"KTY", "CCC", "KRU", "BDX", "OPL", "PCO", "TPE"}
    assert {(symbol, "XWAR") for symbol in wig20} <= listed
    assert {("^SPX", "XNYS"), ("^NDX", "XNYS"), ("^DJI", "XNYS"), ("WIG20", "XWAR")} <= listed


@pytest.mark.parametrize(
    ("symbol", "mic", "first"),
    [
        ("META", "XNYS", date(2012, 5, 18)),
        ("TSLA", "XNYS", date(2010, 6, 29)),
        ("GOOGL", "XNYS", date(2004, 8, 19)),
        ("ZAB", "XWAR", date(2024, 10, 17)),
        ("ALE", "XWAR", date(2020, 10, 12)),
        ("DNP", "XWAR", date(2017, 4, 19)),
    ],
)
def test_a_share_has_no_bar_before_its_first_session(symbol: str, mic: str, first: date) -> None:
    assert history(symbol, mic).sessions[0].astype(date) == first


@pytest.mark.parametrize(
    ("symbol", "before", "ex_date", "ratio"),
    [
        ("AAPL", date(2020, 8, 28), date(2020, 8, 31), 4),
        ("NVDA", date(2024, 6, 7), date(2024, 6, 10), 10),
        ("SIMR", date(2022, 3, 14), date(2022, 3, 15), 0.1),
    ],
)
def test_a_split_divides_the_price(symbol: str, before: date, ex_date: date, ratio: float) -> None:
    of = history(symbol)
    assert any(action.ex_date == ex_date and action.value == ratio for action in of.actions)
    assert close_on(of, before) / close_on(of, ex_date) == pytest.approx(ratio, rel=0.15)


def test_apple_pays_every_quarter_and_pko_once_a_year() -> None:
    def paid_in_2023(symbol: str, mic: str) -> list[date]:
        actions = history(symbol, mic).actions
        return [a.ex_date for a in actions if a.kind == DIVIDEND and a.ex_date.year == 2023]

    assert len(paid_in_2023("AAPL", "XNYS")) == 4
    assert len(paid_in_2023("PKO", "XWAR")) == 1


def test_a_delisted_share_ends_and_a_halted_one_has_holes() -> None:
    assert history("SIMD").sessions[-1].astype(date) == date(2023, 6, 30)
    halted = history("SIMH")
    sessions = halted.calendar.sessions(halted.sessions[0].astype(date), halted.sessions[-1].astype(date))
    assert 20 < len(sessions) - len(halted.sessions) < len(sessions) * 0.1


def test_a_bar_appears_when_its_session_has_closed() -> None:
    share = listing("AAPL")
    before = WORLD.tape(share, datetime(2024, 11, 29, 17, 59, tzinfo=UTC))
    after = WORLD.tape(share, datetime(2024, 11, 29, 18, 0, tzinfo=UTC))  # a half day: closes at 13:00
    assert before.sessions[-1].astype(date) == date(2024, 11, 27)
    assert after.sessions[-1].astype(date) == date(2024, 11, 29)


def test_a_bar_under_way_stays_inside_the_bar_that_it_becomes() -> None:
    share = listing("TSLA")
    closed = WORLD.tape(share, datetime(2024, 3, 1, 21, 0, tzinfo=UTC), forming=True)
    whole = closed.bars.row(-1)
    assert not closed.forming
    seen = []
    for minute in (30, 45, 59):
        tape = WORLD.tape(share, datetime(2024, 3, 1, 17, minute, tzinfo=UTC), forming=True)
        assert tape.forming
        assert tape.sessions[-1].astype(date) == date(2024, 3, 1)
        bar = tape.bars.row(-1)
        assert whole.low <= bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert bar.high <= whole.high
        assert bar.open == whole.open
        seen.append(bar.volume)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < whole.volume


def test_an_action_is_known_with_the_first_bar_that_it_concerns() -> None:
    share = listing("AAPL")
    eve = WORLD.tape(share, datetime(2020, 8, 31, 12, 0, tzinfo=UTC), forming=True)
    opened = WORLD.tape(share, datetime(2020, 8, 31, 14, 0, tzinfo=UTC), forming=True)
    assert date(2020, 8, 31) not in [action.ex_date for action in eve.actions_of(SPLIT)]
    assert date(2020, 8, 31) in [action.ex_date for action in opened.actions_of(SPLIT)]
    assert eve.split_factor[-1] == 1
    assert opened.split_factor[-2:].tolist() == [4, 1]
