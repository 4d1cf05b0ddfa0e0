"""`python -m benchmarks [NAME…]`: measures, shows, and keeps what was measured as JSON."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.document import PAGE, lines, page
from benchmarks.machine import this_machine
from benchmarks.measure import Effort
from benchmarks.registry import BENCHMARKS, Benchmark
from benchmarks.results import RESULTS, Result, as_json, load, save
from benchmarks.workplace import BenchmarkFailed
from market_pipelines.store.locks import FileLock

_QUICK = Effort(repetitions=1, share=0.02)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.write_docs:
        _write_page()
        return 0
    chosen = [
        BENCHMARKS[name] for name in options.names or [name for name, one in BENCHMARKS.items() if one.by_default]
    ]
    RESULTS.mkdir(exist_ok=True)
    lock = FileLock(RESULTS / ".measuring")
    if not lock.try_acquire():
        print("another measuring run is under way, and two would measure each other", file=sys.stderr)
        return 1
    results, failed = [], False
    with lock:
        for benchmark in chosen:
            try:
                result = measure(benchmark, _effort(benchmark, options))
            except BenchmarkFailed as error:
                print(f"{benchmark.name}: {error}", file=sys.stderr)
                failed = True
                continue
            print("\n".join(lines(result)), end="\n\n", flush=True)
            results.append(result)
            if not options.quick:
                save(result)
    if options.quick:
        print("a quick look: with so little data the figures say that it works, not how fast it is")
    if options.json is not None:
        options.json.write_bytes(as_json(results))
    return 1 if failed else 0


def measure(benchmark: Benchmark, effort: Effort) -> Result:
    machine, began = this_machine(), time.perf_counter()
    taken_at = datetime.now(UTC)
    findings = benchmark.run(effort)
    seconds = time.perf_counter() - began
    return Result(benchmark.name, benchmark.title, benchmark.method, findings, machine, taken_at, seconds)


def _effort(benchmark: Benchmark, options: argparse.Namespace) -> Effort:
    if options.quick:
        return _QUICK
    return Effort(options.repetitions or benchmark.repetitions)


def _write_page() -> None:
    results = load(tuple(BENCHMARKS))
    PAGE.write_text(page(results, {name: one.title for name, one in BENCHMARKS.items()}), encoding="utf-8")
    print(f"{PAGE} shows {', '.join(results) or 'no results yet'}")


def _parser() -> argparse.ArgumentParser:
    optional = ", ".join(name for name, one in BENCHMARKS.items() if not one.by_default)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        choices=[*BENCHMARKS, []],
        help=f"which ones ({', '.join(BENCHMARKS)}); all but {optional} when none is named",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--repetitions", type=int, metavar="N", help="instead of each benchmark's own number")
    parser.add_argument("--quick", action="store_true", help="a fraction of the data, once; nothing is kept")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"make {PAGE.name} of the results kept; measure nothing"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
