"""Damaged answers by the million: `make fuzz`, or `python -m market_pipelines_tests.fuzz --inputs 1000000`.

Every reader of every provider is fed good answers of the simulator that were cut, spliced, flipped and patched, and
plain noise. Whatever comes in, a typed outcome has to come out, and rows only where they are sound. Frames of the live
feeds are damaged likewise, between sound ones that have to survive. The first answer that breaks this is written to a
file, and the run ends with an error. A seed gives the same inputs again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon.frames import read_frames
from market_pipelines.providers.protocol import Capability, abilities_of
from market_pipelines.providers.yahoo import streamer
from market_pipelines.testing import Good
from market_pipelines.testing.abilities import assert_sound
from market_pipelines_tests.contract.providers.test_abilities_contract import built, examples

PROVIDERS = ("alpha_vantage", "yahoo", "polygon", "iex_cloud", "stooq")
STATUSES = (*[200] * 40, 0, 302, 400, 401, 403, 404, 429, 500)
LONGEST = 6_000
"""Bytes of a good answer that are used: its beginning and its end."""
WORDS = (
    b"null", b"NaN", b"Infinity", b"-1", b"0", b"1e309", b"1e-320", b"99999999999999999999", b'""', b"[]", b"{}",
    b'"', b",", b":", b"\x00", b"\xff\xfe", b"\r\n", b"\xef\xbb\xbf", b"<html>", b"N/D", b"2099-99-99", b"9" * 40,
    b'{"Information":"premium"}', b'"Note":', b"true", b"[[[[[[[[", b"\xf0\x9f\x92\xb0", b"None", b"-", b";", b"1.5",
)  # fmt: skip
FRAMES_EVERY = 8
"""Of so many inputs one is a frame of a live feed."""
SOUND = (
    b'[{"ev":"T","sym":"AAPL","i":"50","x":10,"p":161.87,"s":300,"c":[14,41],"t":1795271400123,"q":40094,"z":3},'
    b'{"ev":"Q","sym":"MSFT","bx":4,"bp":114.125,"bs":100,"ax":7,"ap":114.128,"as":160,"c":0,"t":1795271400123,"q":5}]',
    b'[{"ev":"AM","sym":"GTE","v":4110,"dv":"4110.5","o":0.4488,"c":0.4486,"h":0.4489,"l":0.4486,"s":1795271340000,'
    b'"e":1795271400000},{"ev":"LULD","T":"MSFT","h":218.96,"l":198.11,"t":1795271400123456,"q":290317}]',
    b'[{"ev":"status","status":"connected","message":"Connected Successfully"}]',
)
PUSHED = (
    b'{"type":"pricing","message":"CgdCVEMtVVNEFYoMuUcYwLCVgIplIgNVU0QqA0NDQzApOAFFPWrEP0iAgOrxvANVx/25R12csrRHZYD8skR9/7i0'
    b'R7ABgIDq8bwD2AEE4AGAgOrxvAPoAYCA6vG8A/IBA0JUQ4ECAAAAwPrjckGJAgAA2P5ZT3tC"}'
)


@dataclass(frozen=True)
class Broken:
    provider: str
    capability: str
    seed: int
    status: int
    body: bytes
    why: str


def damaged(body: bytes, chance: random.Random) -> bytes:
    """One to four injuries."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        at = chance.randint(0, len(body))
        match chance.randrange(8):
            case 0:
                body = body[:at]
            case 1:
                body = body[:at] + chance.choice(WORDS) + body[at:]
            case 2:
                body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
            case 3:
                end = min(len(body), at + chance.randint(1, 60))
                body = body[:at] + body[end:]
            case 4:
                end = min(len(body), at + chance.randint(1, 200))
                body = body[:end] + body[at:end] + body[end:]
            case 5:
                other = chance.randint(0, len(body))
                body = body[:at] + body[other : other + chance.randint(1, 80)] + body[at:]
            case 6:
                end = min(len(body), at + chance.randint(1, 12))
                body = body[:at] + chance.choice(WORDS) + body[end:]
            case 7:
                body = body[:at] + chance.randbytes(chance.randint(1, 30)) + body[at:]
    return body


def shortened(body: bytes) -> bytes:
    return body if len(body) <= LONGEST else body[: LONGEST // 2] + body[-LONGEST // 2 :]


def seeds() -> Iterator[tuple[str, Capability, Good]]:
    for name in PROVIDERS:
        for capability, good in examples(name).items():
            yield name, capability, good


def frames_hold(chance: random.Random) -> tuple[str, bytes, str]:
    """The feed, the damaged frame and what went wrong, if something did."""
    if chance.random() < 0.2:
        feed, body = "yahoo", damaged(PUSHED, chance)
        bodies = [PUSHED, body, PUSHED]
    else:
        feed, body = "polygon", damaged(chance.choice(SOUND), chance)
        bodies = [SOUND[0], body, SOUND[0]]
    received, positions = np.full(3, 1_795_271_400_123_000_000), np.arange(1, 4)
    try:
        if feed == "yahoo":
            pushed = streamer.read_frames(bodies, received, positions, feed=feed)
            ends, unread = pushed.snapshots["symbol"].to_pylist(), {one.position for one in pushed.unread}
            survived = ends[0] == ends[-1] == "BTC-USD"
        else:
            frames = read_frames(bodies, received, positions, feed=feed)
            unread = {one.position for one in frames.unread}
            survived = all(
                (symbols := frames.tables[kind]["symbol"].to_pylist())[0] == symbols[-1] == symbol and len(symbols) >= 2
                for kind, symbol in ((TickKind.TRADES, "AAPL"), (TickKind.QUOTES, "MSFT"))
            )
    except Exception:  # noqa: BLE001 (any exception at all is what this looks for)
        return feed, body, traceback.format_exc()
    return feed, body, "" if survived and unread <= {2} else f"a sound frame suffered; unread are {sorted(unread)}"


def work(
    lot: tuple[int, int, list[tuple[str, Capability, Good]]],
) -> tuple[Counter[tuple[str, str, str]], Broken | None]:
    seed, inputs, goods = lot
    chance = random.Random(seed)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    counted: Counter[tuple[str, str, str]] = Counter()
    readers = {name: abilities_of(built(name, "http://127.0.0.1:9")) for name in PROVIDERS}
    bodies = [(shortened(good.answer.body), good.answer.body) for _, _, good in goods]
    for number in range(inputs):
        if number % FRAMES_EVERY == 0:
            feed, frame, why = frames_hold(chance)
            if why:
                return counted, Broken(feed, "frames", seed, 0, frame, why)
            counted[feed, "frames", "read"] += 1
            continue
        place = (number + seed) % len(goods)
        name, capability, good = goods[place]
        short, whole = bodies[place]
        base = whole if len(whole) <= LONGEST or chance.random() < 0.02 else short
        body = chance.randbytes(chance.randint(0, 300)) if chance.random() < 0.05 else damaged(base, chance)
        answer = replace(good.answer, body=body, status=chance.choice(STATUSES))
        try:
            parsed = readers[name][capability].read(answer, good.question)
            assert_sound(capability, parsed)
        except Exception:  # noqa: BLE001 (any exception at all is what this looks for)
            return counted, Broken(name, capability.value, seed, answer.status, body, traceback.format_exc())
        counted[name, capability.value, parsed.outcome.value] += 1
    return counted, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lot", type=int, default=5_000, help="inputs that one process works on at a time")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    goods = list(seeds())
    lots = [
        (asked.seed * 1_000_000 + number, min(asked.lot, asked.inputs - number * asked.lot), goods)
        for number in range(-(-asked.inputs // asked.lot))
    ]
    total: Counter[tuple[str, str, str]] = Counter()
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, (counted, broken) in enumerate(pool.map(work, lots), start=1):
            total += counted
            if broken is not None:
                kept = Path(f"fuzz-{broken.provider}-{broken.capability}.bin")
                kept.write_bytes(broken.body)
                pool.shutdown(wait=False, cancel_futures=True)
                sys.stderr.write(
                    f"{broken.provider} {broken.capability}, status {broken.status}, seed {broken.seed}, "
                    f"body in {kept}\n{broken.why}"
                )
                return 1
            if done % 20 == 0:
                rate = total.total() / (time.monotonic() - began)
                sys.stderr.write(f"{total.total():,} inputs, {rate:,.0f} a second\n")
    sys.stdout.write(json.dumps(_summary(total, time.monotonic() - began, len(goods)), indent=2) + "\n")
    return 0


def _summary(total: Counter[tuple[str, str, str]], seconds: float, readers: int) -> dict[str, object]:
    by_provider: Counter[str] = Counter()
    by_outcome: Counter[str] = Counter()
    for (provider, _, outcome), count in total.items():
        by_provider[provider] += count
        by_outcome[outcome] += count
    return {
        "inputs": total.total(),
        "readers": readers,
        "seconds": round(seconds),
        "exceptions": 0,
        "unsound": 0,
        "by_provider": dict(by_provider.most_common()),
        "by_outcome": dict(by_outcome.most_common()),
    }


if __name__ == "__main__":
    sys.exit(main())
