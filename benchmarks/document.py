"""How results are shown: lines on a terminal, and `docs/performance.md`. No number is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.results import Figure, Reading, Result

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_HEAD = """\
# How fast it is

Made by `python -m benchmarks --write-docs` from what `make bench` measured; do not edit. A figure is the median of
its repetitions, which alternate with those of its peers on the same machine; beside it the range of all repetitions.
A ratio is how many times better than the peer we are. Machines are shared and noisy: trust ratios before absolute
figures, and figures by CPU second before those by wall time.
"""


def page(results: Mapping[str, Result], titles: Mapping[str, str]) -> str:
    """The document; `titles` names all benchmarks there are, in order."""
    parts = [_HEAD]
    for name, title in titles.items():
        result = results.get(name)
        if result is None:
            parts.append(f"## {title}\n\nNot measured yet: `python -m benchmarks {name}`.\n")
        else:
            parts.append("\n".join(_section(result)))
    return "\n".join(parts)


def _section(result: Result) -> Iterator[str]:
    yield f"## {result.title}\n"
    yield f"{result.method}\n"
    yield "| what | who | figure | range | CPU | target | ratio |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for figure in result.findings.figures:
        yield _row(figure.what, f"**{figure.ours.who}**", figure, figure.ours, _target(figure), "")
        for peer in figure.peers:
            yield _row("", peer.who, figure, peer, "", f"{_short(figure.ratio(peer))}×")
    yield ""
    for note in result.findings.notes:
        yield f"{note}\n"
    yield (
        f"{result.taken_at:%Y-%m-%d %H:%M} UTC, {result.machine.line}. {result.machine.version_line}. "
        f"Again: `python -m benchmarks {result.name}` ({result.seconds:.0f} s).\n"
    )


def _row(what: str, who: str, figure: Figure, reading: Reading, target: str, ratio: str) -> str:
    cells = (what, who, _value(figure, reading), _range(reading), _cpu(reading), target, ratio)
    return f"| {' | '.join(cells)} |"


def lines(result: Result) -> Iterator[str]:
    yield f"{result.title} ({result.name}, {result.seconds:.0f} s)"
    for figure in result.findings.figures:
        target = f"   target {_target(figure)}" if figure.target is not None else ""
        yield f"  {figure.what}"
        yield f"    {figure.ours.who:<36} {_told(figure, figure.ours)}{target}"
        for peer in figure.peers:
            yield f"    {peer.who:<36} {_told(figure, peer)}   {_short(figure.ratio(peer))}×"
    for note in result.findings.notes:
        yield f"  {note}"
    yield f"  {result.machine.line}"
    yield f"  {result.machine.version_line}"


def _told(figure: Figure, reading: Reading) -> str:
    cpu = f"   CPU {_cpu(reading)}" if _cpu(reading) else ""
    return f"{_value(figure, reading):>18}   [{_range(reading)}]{cpu}"


def _value(figure: Figure, reading: Reading) -> str:
    return f"{_short(reading.value)} {figure.unit}"


def _range(reading: Reading) -> str:
    return f"{_short(min(reading.repetitions))} to {_short(max(reading.repetitions))}"


def _cpu(reading: Reading) -> str:
    if reading.per_cpu_second is not None:
        return f"{_short(reading.per_cpu_second)} rows/CPU s"
    parts: Sequence[tuple[str, float | None]] = (("ours", reading.client_cpu), ("PostgreSQL", reading.server_cpu))
    return ", ".join(f"{name} {_short(seconds)} s" for name, seconds in parts if seconds is not None)


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    sign = "≥" if figure.better == "more" else "≤"
    return f"{sign} {_short(figure.target)}: {'met' if figure.met else 'missed'}"


def _short(value: float) -> str:
    """Three digits are more than a shared machine can promise."""
    if abs(value) >= 1_000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
