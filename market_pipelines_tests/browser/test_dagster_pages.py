"""The pages that people look at, in a real Chromium, on a platform started as a user starts it.

`MARKET_PIPELINES_PICTURES=docs/pictures` also takes the pictures that the documents show.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, Response, expect, sync_playwright

from market_pipelines.cli.dagster_home import LOCATION
from market_pipelines.definitions import defs
from market_pipelines_tests.serving import Platform

CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("MARKET_PIPELINES_PICTURES")
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 60_000.0
LIVE_SECONDS = 90
"""The sensor looks every 30 seconds, and the page by and by."""
WIDTH, HEIGHT = 1600, 900
LOOKS, BETWEEN_LOOKS = 20, 700.0

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def platform(started_platform: Platform) -> Platform:
    started_platform.wait_for("every market is filled")
    return started_platform


@pytest.fixture(scope="module")
def page(platform: Platform) -> Iterator[Page]:
    arguments = [*QUIET, "--no-sandbox"] if os.geteuid() == 0 else [*QUIET]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, base_url=f"http://127.0.0.1:{platform.port}"
        )
        opened.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield opened
        browser.close()


@cache
def checks() -> Mapping[dg.AssetKey, int]:
    """How many checks each asset has."""
    graph = defs().get_repository_def().asset_graph
    return Counter(key.asset_key for key in graph.asset_check_keys)


def checks_in(group: str) -> Mapping[int, int]:
    """How many assets of a group have so many checks."""
    graph = defs().get_repository_def().asset_graph
    return Counter(count for key, count in checks().items() if graph.get(key).group_name == group)


def picture(page: Page, name: str) -> None:
    """Taken when the page has come to rest: twice the same."""
    if not PICTURES:
        return
    before, now = b"", page.screenshot()
    for _ in range(LOOKS):
        if now == before:
            break
        page.wait_for_timeout(BETWEEN_LOOKS)
        before, now = now, page.screenshot()
    (Path(PICTURES) / f"{name}.png").write_bytes(now)


def test_the_lineage_of_a_market_is_drawn_with_every_check_passed(page: Page) -> None:
    page.goto("/locations/market_pipelines/asset-groups/us/lineage")
    for asset in (
        "instruments",
        "yahoo_daily",
        "alpha_vantage_daily",
        "polygon_daily",
        "stooq_daily",
        "corporate_actions",
    ):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    for asset in ("stock_prices", "index_prices"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    for count, assets in checks_in("us").items():
        expect(page.get_by_text(f"{count} / {count} Passed", exact=True)).to_have_count(assets)
    picture(page, "lineage")


def test_a_partition_shows_what_is_in_it(page: Page, platform: Platform) -> None:
    partitions = platform.client().partitions(["us", "stock_prices"], 40)
    assert partitions is not None
    newest = max(partitions.keys)
    page.goto(f"/assets/us/stock_prices?view=partitions&partition={newest}")
    expect(page.get_by_text("rows_by_provider")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^simulated-yahoo \d+$"))).to_be_visible()
    page.get_by_text("median_close").scroll_into_view_if_needed()
    expect(page.get_by_text("median close over the range")).to_be_visible()
    picture(page, "partition")


def test_the_checks_say_what_they_found(page: Page) -> None:
    page.goto("/assets/us/stock_prices?view=checks")
    count = checks()[dg.AssetKey(["us", "stock_prices"])]
    expect(page.get_by_text(f"Checks ({count})")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^2000 of 2000 expected bars are stored"))).to_be_visible()
    expect(page.get_by_text("Succeeded")).to_have_count(count)
    picture(page, "checks")


def test_a_ranged_run_is_green_from_first_to_last_step(page: Page, platform: Platform) -> None:
    said = re.search(r"^us: stock_prices .* \(run ([0-9a-f]{8})\)$", platform.said(), re.MULTILINE)
    assert said is not None
    page.goto("/runs")
    page.get_by_text(said[1]).first.click()
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    expect(page.get_by_text("Errored (0)")).to_be_visible()
    expect(page.get_by_text("Loading run logs")).to_have_count(0)
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()
    picture(page, "run")


def test_the_intraday_lineage_is_drawn_beside_it(page: Page) -> None:
    page.goto("/locations/market_pipelines/asset-groups/us_intraday/lineage")
    for asset in ("yahoo_intraday", "alpha_vantage_intraday", "polygon_intraday", "stock_prices_intraday"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    for count, assets in checks_in("us_intraday").items():
        expect(page.get_by_text(f"{count} / {count} Passed", exact=True)).to_have_count(assets)
    picture(page, "intraday")


def test_all_schedules_are_on(page: Page) -> None:
    # The page draws only the lines that there is room for.
    page.set_viewport_size({"width": WIDTH, "height": 2400})
    page.goto("/automation")
    for market in ("us", "pl"):
        for schedule in ("after_close", "intraday_after_close", "intraday_market_hours", "weekend", "freshness"):
            expect(page.get_by_text(f"{market}_{schedule}", exact=True)).to_be_visible()
    for name in ("health_check", "retention_nightly", "us_repair", "failed_runs", "red_checks", "notifications"):
        expect(page.get_by_text(name, exact=True)).to_be_visible()
    repository = defs().get_repository_def()
    running = [one for one in repository.schedule_defs if one.default_status is dg.DefaultScheduleStatus.RUNNING]
    sensing = [one for one in repository.sensor_defs if one.default_status is dg.DefaultSensorStatus.RUNNING]
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(len(running) + len(sensing))
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    picture(page, "schedules")


def test_a_schedule_and_a_sensor_say_what_they_decided(page: Page) -> None:
    page.goto("/locations/market_pipelines/schedules/us_after_close")
    expect(page.get_by_text("30 minutes after XNYS closes, half days by their own close").first).to_be_visible()
    picture(page, "schedule")
    page.goto("/locations/market_pipelines/sensors/us_repair")
    page.get_by_role("button", name="0 runs requested").first.click()
    expect(page.get_by_text(re.compile("no holes|holes; the next")).first).to_be_visible()
    picture(page, "sensor")


def test_the_live_stream_is_seen_on_its_assets_and_by_its_sensor(page: Page) -> None:
    page.goto("/assets/us/realtime_quotes?view=events")
    expect(page.get_by_text("events_per_second", exact=True).first).to_be_visible(timeout=LIVE_SECONDS * 1000)
    expect(page.get_by_text("polygon-1").first).to_be_visible()
    picture(page, "realtime")
    page.goto("/locations/market_pipelines/sensors/pl_stream")
    page.get_by_role("button", name="0 runs requested").first.click()
    expect(page.get_by_text(re.compile("pl-stooq is streamed by pid")).first).to_be_visible()


def test_the_platforms_health_is_an_asset_with_a_check_for_each_part(page: Page, platform: Platform) -> None:
    client = platform.client()
    location = client.location(LOCATION)
    assert location is not None
    client.launch(location, "health_check", {})
    page.goto("/assets/platform/health?view=checks")
    expect(page.get_by_text("Checks (7)")).to_be_visible()
    expect(page.get_by_text("backlog", exact=True).first).to_be_visible()
    picture(page, "health")


def test_pages_ask_nothing_of_the_outside(page: Page, platform: Platform) -> None:
    asked: list[str] = []

    def note(response: Response) -> None:
        asked.append(response.url)

    page.on("response", note)
    page.goto("/locations/market_pipelines/asset-groups/pl/lineage")
    expect(page.get_by_text("stock_prices", exact=True).first).to_be_visible()
    page.remove_listener("response", note)
    ours = f"http://127.0.0.1:{platform.port}/"
    assert asked
    assert [url for url in asked if not url.startswith((ours, "data:", "blob:"))] == []
