"""The reference assets of one market: listings, profiles, quotes, index members, option contracts, venues.

They have no partitions: each is the state of now, refreshed at the weekend and whenever somebody wants to. Every
asset is a few lines around a use case of `pipeline/`. One that no provider of the market offers does not exist.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import dagster as dg
import pandas as pd

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.present import column_schema, counted, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import REFERENCE_LAYER, asset_key, asset_spec
from market_pipelines.pipeline.fetch import Delivered
from market_pipelines.pipeline.listings import sync_listings
from market_pipelines.pipeline.memberships import store_memberships
from market_pipelines.pipeline.options import pull_options
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.profiles import FRESH, pull_profiles
from market_pipelines.pipeline.quotes import pull_quotes
from market_pipelines.pipeline.results import Job, logged_job
from market_pipelines.pipeline.universes import load_universe, universe_names
from market_pipelines.pipeline.venue_status import pull_venue_status
from market_pipelines.providers.protocol import Capability, abilities_of
from market_pipelines.providers.registry import build_providers
from market_pipelines.settings import read_settings

OPTION_DAYS = 30
"""Expiries further away are left to whoever asks for them by the command line."""
_NOT_A_FAILURE = (Outcome.NOT_ENTITLED, Outcome.RETIRED)
"""How asking can end that no second run mends: a person has to give a key."""

QUOTE_SCHEMA = column_schema(
    {
        "market": ("text", "Short name of the market"),
        "symbol": ("text", "The exchange's own symbol"),
        "price": ("double precision", "Latest trade, in whole units of the currency"),
        "bid": ("double precision", "Highest bid; empty where the provider has none"),
        "ask": ("double precision", "Lowest ask"),
        "volume": ("double precision", "Shares traded in the session so far"),
        "as_of": ("timestamp with time zone", "The moment that the quote speaks of"),
        "provider": ("text", "Whose quote this is"),
    }
)
PROFILE_SCHEMA = column_schema(
    {
        "symbol": ("text", "The exchange's own symbol"),
        "name": ("text", "Of the company"),
        "sector": ("text", "As the provider names it"),
        "industry": ("text", "As the provider names it"),
        "country": ("text", "Of its seat"),
        "employees": ("bigint", "Full-time"),
        "market_cap": ("double precision", "In its currency"),
        "isin": ("text", "International securities identification number"),
        "figi": ("text", "Financial instrument global identifier"),
        "cik": ("text", "Number at the SEC"),
        "provider": ("text", "Who said so last"),
    }
)


def reference_assets(market: MarketDefinition, chain: Sequence[str]) -> list[dg.AssetsDefinition]:
    offered = _offered(market, chain)
    made = {
        Capability.LISTINGS: _listings,
        Capability.PROFILE: _profiles,
        Capability.QUOTE: _quotes,
        Capability.OPTIONS: _options,
        Capability.MARKET_STATUS: _venues,
    }
    assets = [make(market, offered[capability]) for capability, make in made.items() if capability in offered]
    if any(load_universe(name).exchange == market.mic for name in universe_names()):
        assets.append(_index_members(market))
    return assets


def _offered(market: MarketDefinition, chain: Sequence[str]) -> Mapping[Capability, tuple[str, ...]]:
    """Who of the chain offers what to this market."""
    providers = build_providers(read_settings())
    somebody = Instrument("ANY", market.name, market.mic, market.currency)
    found: dict[Capability, tuple[str, ...]] = {}
    for name in chain:
        if name in providers and providers[name].covers(somebody):
            for capability in abilities_of(providers[name]):
                found[capability] = (*found.get(capability, ()), name)
    return found


def _companies(market: MarketDefinition) -> list[Instrument]:
    return [one for one in market.everything if one.kind is not Kind.INDEX]


@contextmanager
def _job(platform: Platform, market: MarketDefinition, kind: str, run_id: str, symbols: Iterable[str]) -> Iterator[Job]:
    with logged_job(platform, f"{market.name}_weekly_refresh", kind, market, list(symbols), run_id) as job:
        yield job


def _said_by(providers: Sequence[str]) -> str:
    return f"Asked of {', '.join(providers)}, in this order."


def _refuse_nothing(what: str, outcomes: Sequence[Outcome], reason: str) -> None:
    """A step fails when nobody delivered anything, unless all that lacks is a key."""
    if outcomes and not any(outcome.delivered for outcome in outcomes) and not set(outcomes) <= set(_NOT_A_FAILURE):
        raise dg.Failure(f"nobody delivered {what}: {reason}")


def _trouble(results: Mapping[str, Delivered]) -> dg.TableMetadataValue:
    rows = [
        (symbol, delivered.outcome.value, delivered.reason)
        for symbol, delivered in sorted(results.items())
        if delivered.delivered is None
    ]
    return table(pd.DataFrame(rows, columns=["symbol", "outcome", "reason"]))


def _listings(market: MarketDefinition, providers: Sequence[str]) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "listings"),
        f"Everything that {market.mic} lists, and who bore a ticker when: delistings, renamings, tickers that went to "
        f"another company. A list that is suddenly short delists nobody. {_said_by(providers)}",
        {"python", "postgres"},
        [asset_key(market, "instruments")],
        {"dagster/table_name": "market.listing_history"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_listings", specs=[spec])
    def listings(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        with platform.opened() as opened, _job(opened, market, "listings", context.run.run_id, ()) as job:
            report = sync_listings(opened, market, run_id=context.run.run_id)
            job.processed = report.listed
            _refuse_nothing("the list", [report.delivered.outcome], report.delivered.reason)
        changes = report.changes
        moved = [
            *((one.bearer.symbol, "gone", one.bearer.name, str(one.last_day or "")) for one in changes.gone),
            *((bearer.symbol, "renamed", bearer.name, line.symbol) for bearer, line in changes.renamed),
            *((line.symbol, "reused", bearer.name, line.name) for bearer, line in changes.reused),
            *((line.symbol, "new", line.name, line.exchange) for line in changes.new),
        ]
        if changes.held:
            context.log.warning(f"nobody was delisted: {changes.held}")
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.listed,
                "provider": report.delivered.delivered.provider if report.delivered.delivered else "none",
                "outcome": report.delivered.outcome.value,
                "new": len(changes.new),
                "changed": len(changes.changed),
                "gone": len(changes.gone),
                "renamed": len(changes.renamed),
                "reused": len(changes.reused),
                "held": changes.held or "no",
                "followed_gone": ", ".join(report.followed_gone) or "none",
                "changes": table(pd.DataFrame(moved, columns=["symbol", "what", "name", "then"])),
            }
        )

    return listings


def _profiles(market: MarketDefinition, providers: Sequence[str]) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "company_profiles"),
        "Who the companies are: sector, industry, seat, size, identifiers. Who was asked for within "
        f"{FRESH.days} days is not asked for again. {_said_by(providers)}",
        {"python", "postgres"},
        [asset_key(market, "instruments")],
        {"dagster/column_schema": PROFILE_SCHEMA, "dagster/table_name": "market.company_profiles"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_company_profiles", specs=[spec])
    def company_profiles(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        companies = _companies(market)
        symbols = [one.symbol for one in companies]
        with platform.opened() as opened, _job(opened, market, "profiles", context.run.run_id, symbols) as job:
            report = pull_profiles(opened, market, companies, run_id=context.run.run_id, fresh_for=FRESH)
            job.processed = len(report.profiles)
            _note_failed(job, report.symbols)
            _refuse_nothing("a profile", _outcomes(report.symbols), _first_reason(report.symbols))
        shown = pd.DataFrame(
            [(one.symbol, one.name, one.sector, one.industry, one.country) for one in report.profiles],
            columns=["symbol", "name", "sector", "industry", "country"],
        )
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(report.profiles),
                "asked_lately": len(report.skipped),
                "symbols_by_outcome": counted(outcome.value for outcome in _outcomes(report.symbols)),
                "new": report.counts.inserted,
                "changed": report.counts.revised,
                "profiles": table(shown),
                "trouble": _trouble(report.symbols),
            }
        )

    return company_profiles


def _quotes(market: MarketDefinition, providers: Sequence[str]) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "latest_quotes"),
        f"What every followed symbol trades at: one row each, the newest quote wins. {_said_by(providers)}",
        {"python", "postgres"},
        [asset_key(market, "instruments")],
        {"dagster/column_schema": QUOTE_SCHEMA, "dagster/table_name": "market.latest_quotes"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_latest_quotes", specs=[spec])
    def latest_quotes(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        symbols = [one.symbol for one in market.everything]
        with platform.opened() as opened, _job(opened, market, "quotes", context.run.run_id, symbols) as job:
            report = pull_quotes(opened, market, market.everything, run_id=context.run.run_id)
            job.processed = report.written
            for one in report.symbols:
                if not one.outcome.delivered:
                    job.fail(one.symbol, one.outcome)
            outcomes = [one.outcome for one in report.symbols]
            _refuse_nothing("a quote", outcomes, next((one.reason for one in report.symbols if one.reason), ""))
        quoted = [one.latest for one in report.symbols if one.latest is not None]
        shown = pd.DataFrame(
            [(one.quote.symbol, one.quote.price, one.quote.currency, one.provider, one.as_of) for one in quoted],
            columns=["symbol", "price", "currency", "provider", "as_of"],
        )
        lacking = [(one.symbol, one.outcome.value, one.reason) for one in report.symbols if one.latest is None]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(quoted),
                "newer_than_stored": report.written,
                "requests": report.requests,
                "symbols_by_outcome": counted(outcome.value for outcome in outcomes),
                "quotes_by_provider": counted(one.provider for one in quoted),
                "quotes": table(shown),
                "trouble": table(pd.DataFrame(lacking, columns=["symbol", "outcome", "reason"])),
            }
        )

    return latest_quotes


def _options(market: MarketDefinition, providers: Sequence[str]) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "option_contracts"),
        f"Option contracts on the followed shares that expire within {OPTION_DAYS} days, each day's last look at their "
        f"prices kept. {_said_by(providers)}",
        {"python", "postgres"},
        [asset_key(market, "instruments")],
        {"dagster/table_name": "market.option_contracts"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_option_contracts", specs=[spec])
    def option_contracts(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        companies = _companies(market)
        symbols = [one.symbol for one in companies]
        with platform.opened() as opened, _job(opened, market, "options", context.run.run_id, symbols) as job:
            today = trading_calendar(market.mic, opened.clock()).local_date(opened.clock())
            chains = pull_options(
                opened,
                market,
                companies,
                run_id=context.run.run_id,
                expires_from=today,
                expires_to=today + timedelta(days=OPTION_DAYS),
            )
            results = {chain.underlying: chain.delivered for chain in chains}
            job.processed = sum(len(chain.contracts) for chain in chains)
            _note_failed(job, results)
            _refuse_nothing("an option chain", _outcomes(results), _first_reason(results))
        shown = pd.DataFrame(
            [(chain.underlying, len(chain.contracts), len(chain.refused)) for chain in chains],
            columns=["underlying", "contracts", "refused"],
        ).sort_values("contracts", ascending=False)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": int(shown["contracts"].sum()),
                "new": sum(chain.counts.inserted for chain in chains),
                "refused": int(shown["refused"].sum()),
                "symbols_by_outcome": counted(outcome.value for outcome in _outcomes(results)),
                "chains": table(shown),
                "trouble": _trouble(results),
            }
        )

    return option_contracts


def _venues(market: MarketDefinition, providers: Sequence[str]) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "venue_status"),
        f"Open or closed, and the next holidays, as providers say it, compared with the calendar {market.mic} that "
        f"counts here. {_said_by(providers)}",
        {"python", "postgres"},
        metadata={"dagster/table_name": "market.venue_holidays"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_venue_status", specs=[spec])
    def venue_status(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        with platform.opened() as opened, _job(opened, market, "venues", context.run.run_id, ()) as job:
            now = pull_venue_status(opened, market, run_id=context.run.run_id)
            days = pull_venue_status(opened, market, run_id=context.run.run_id, upcoming=True)
            job.processed = len(now.venues) + len(days.venues)
            _refuse_nothing("the state of a venue", [now.delivered.outcome], now.delivered.reason)
        for line in days.contradictions:
            context.log.warning(line)
        shown = pd.DataFrame(
            [(one.venue, str(one.on or "now"), one.status, one.opens, one.closes, one.note)
             for one in (*now.venues, *days.venues)],
            columns=["venue", "day", "status", "opens", "closes", "note"],
        )  # fmt: skip
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(shown),
                "outcome": now.delivered.outcome.value,
                "calendar": f"{now.calendar.mic} is {now.calendar.status}, opens {now.calendar.next_open}",
                "contradictions": "; ".join(days.contradictions) or "none",
                "venues": table(shown),
            }
        )

    return venue_status


def _index_members(market: MarketDefinition) -> dg.AssetsDefinition:
    spec = asset_spec(
        market,
        asset_key(market, "index_members"),
        "Who belonged to the market's indices from when to when, from the dated lists that ship with this platform.",
        {"postgres", "csv"},
        metadata={"dagster/table_name": "market.index_members"},
        layer=REFERENCE_LAYER,
    )

    @dg.multi_asset(name=f"{market.name}_index_members", specs=[spec])
    def index_members(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult[None]:
        with platform.opened() as opened, _job(opened, market, "members", context.run.run_id, ()) as job:
            reports = store_memberships(opened, market)
            job.processed = sum(len(report.universe.members) for report in reports)
        shown = pd.DataFrame(
            [
                (
                    one.universe.index,
                    one.universe.title,
                    len(one.universe.today),
                    one.universe.as_of,
                    one.counts.changed,
                )
                for one in reports
            ],
            columns=["index", "title", "members", "as_of", "rows_changed"],
        )
        return dg.MaterializeResult(
            metadata={"dagster/row_count": sum(len(one.universe.members) for one in reports), "indices": table(shown)}
        )

    return index_members


def _outcomes(results: Mapping[str, Delivered]) -> list[Outcome]:
    return [delivered.outcome for delivered in results.values()]


def _first_reason(results: Mapping[str, Delivered]) -> str:
    return next((delivered.reason for delivered in results.values() if delivered.delivered is None), "")


def _note_failed(job: Job, results: Mapping[str, Delivered]) -> None:
    for symbol, delivered in results.items():
        if delivered.delivered is None:
            job.fail(symbol, delivered.outcome)
