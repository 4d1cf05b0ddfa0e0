"""Company profiles: the first of the chain that has one, into `company_profiles`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.records import Profile
from market_pipelines.pipeline.each import Progress, ask_chain
from market_pipelines.pipeline.fetch import Delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, ProfileQuery
from market_pipelines.store.profiles import read_profiles, write_profile
from market_pipelines.store.upsert import WriteCounts

FRESH = timedelta(days=6)
"""Profiles hardly change: a weekly refresh does not ask again for what was asked for since the last one."""


@dataclass(frozen=True)
class ProfilesReport:
    symbols: Mapping[str, Delivered]
    profiles: tuple[Profile, ...]
    counts: WriteCounts
    skipped: tuple[str, ...] = ()
    """Symbols that were asked for lately."""


def pull_profiles(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    *,
    run_id: str,
    purpose: Purpose = Purpose.REFRESH,
    providers: Sequence[DailyProvider] | None = None,
    fresh_for: timedelta | None = None,
    progress: Progress | None = None,
) -> ProfilesReport:
    """Indices have none and are not asked for. With `fresh_for`, neither is who was asked for within that time."""
    companies = [one for one in instruments if one.kind is not Kind.INDEX]
    skipped = _fresh(platform, market, companies, fresh_for)
    asked = ask_chain(
        platform,
        market,
        Capability.PROFILE,
        [one for one in companies if one.symbol not in skipped],
        lambda provider, instrument: ProfileQuery(instrument) if provider.covers(instrument) else None,
        purpose=purpose,
        run_id=run_id,
        providers=providers,
        progress=progress,
    )
    counts = WriteCounts()
    profiles = []
    with platform.database.connection() as connection:
        for symbol in sorted(asked):
            attempt = asked[symbol].delivered
            if attempt is None or attempt.parsed is None or attempt.fetched_at is None:
                continue
            for profile in attempt.parsed.records:
                if isinstance(profile, Profile) and profile.symbol == symbol:
                    profiles.append(profile)
                    counts += write_profile(connection, market.name, profile, attempt.provider, attempt.fetched_at)
    return ProfilesReport(asked, tuple(profiles), counts, tuple(sorted(skipped)))


def _fresh(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], fresh_for: timedelta | None
) -> set[str]:
    if fresh_for is None or not instruments:
        return set()
    since = platform.clock() - fresh_for
    with platform.database.connection() as connection:
        stored = read_profiles(connection, market.name, [one.symbol for one in instruments])
    return {one.profile.symbol for one in stored if one.checked_at > since}
