"""Tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.loops.contenders import PEERS, title
from benchmarks.loops.targets import MEMORY_LIMIT_BYTES, TARGETS
from benchmarks.loops.works import WORKS, Work

__all__ = ["Samples", "median", "results_table", "targets_table"]

Samples = dict[str, list[dict[str, float]]]
"""Contender to one dict for each round: ``cpu_ns`` and ``wall_ns`` per message; ``rss_bytes`` of the work "memory"."""

UNITS = {"burst": "message", "send": "message", "memory": "message", "echo": "round trip"}


def median(rounds: Sequence[dict[str, float]], measure: str) -> float:
    return statistics.median(figures[measure] for figures in rounds)


def results_table(work: Work, loop: str, samples: Samples) -> str:
    """CPU and wall time of each contender, and how many times more than it each peer takes."""
    rounds = len(next(iter(samples.values())))
    measure, unit = "cpu_ns", f"CPU ns/{UNITS[work.kind]}"
    if work.kind == "memory":
        measure, unit = "rss_bytes", "RSS growth, MB"
    peers = [peer for peer in PEERS if peer in samples]
    extra = [f"wall ns/{UNITS[work.kind]}", *(f"{title(peer, work.kind)} ÷ this" for peer in peers)]
    lines = [
        f"### {work.name}, {loop}",
        "",
        f"{work.title}; {work.block * work.repeats:,} {UNITS[work.kind]}s, {rounds} rounds.",
        "",
        *_head(["contender", f"{unit}: median", "min to max", *extra]),
    ]
    for name, figures in samples.items():
        scale = 1e-6 if measure == "rss_bytes" else 1
        own = median(figures, measure)
        values = sorted(figure[measure] * scale for figure in figures)
        cells = [
            title(name, work.kind),
            _number(own * scale),
            f"{_number(values[0])} to {_number(values[-1])}",
            _number(median(figures, "wall_ns")),
            *("" if peer == name else f"{median(samples[peer], measure) / own:.2f}" for peer in peers),
        ]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def targets_table(results: dict[tuple[str, str], Samples]) -> str:
    """The targets next to what was reached, for what was run.

    Args:
        results: (work, loop) to samples.
    """
    lines = ["### Targets", "", *_head(["work", "loop", "what", "at least", "reached", ""])]
    lines += (_row(cells) for cells in _target_rows(results))
    return "\n".join(lines) + "\n"


def _target_rows(results: dict[tuple[str, str], Samples]) -> Iterator[list[str]]:
    for target in TARGETS:
        for (work, loop), samples in results.items():
            if work == target.work and target.contender in samples and target.peer in samples:
                peer, own = (median(samples[name], target.measure) for name in (target.peer, target.contender))
                kind = WORKS[work].kind
                measure = "wall time" if target.measure == "wall_ns" else "CPU"
                what = f"{title(target.contender, kind)} against {title(target.peer, kind)}: {measure}"
                yield _judged(
                    work, loop, what, f"{target.ratio:g} times", f"{peer / own:.2f} times", peer / own >= target.ratio
                )
    for (work, loop), samples in results.items():
        if work == "memory" and "fastws" in samples:
            growth = median(samples["fastws"], "rss_bytes")
            limit = f"at most {MEMORY_LIMIT_BYTES / 1e6:.0f} MB"
            yield _judged(work, loop, "fastws", limit, f"{growth / 1e6:.1f} MB", growth <= MEMORY_LIMIT_BYTES)


def _judged(work: str, loop: str, what: str, target: str, reached: str, good: bool) -> list[str]:
    return [work, loop, what, target, reached, "yes" if good else "**no**"]


def _head(cells: list[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
