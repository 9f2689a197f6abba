"""What becomes of a consumer that is a hundred times too slow, by library and by policy. Prints a table.

python -m benchmarks.overload [--seconds 4] [--scale 5] [--style awaiting] [--only NAME ...] [--plot overload.svg]

The bench is that of ``tests/overload``: a venue that pings and cuts off, small socket buffers, 270 streams. Offered are
2,000 messages per second, consumed 20, both times ``--scale``. Each contender runs in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.loops.measure import cores

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from overload.consumer import Market, Outcome, consume_apart, market, p99  # noqa: E402
from overload.venue import Load  # noqa: E402

from fastws import Disconnect  # noqa: E402

OFFERED, CONSUMED = 2000, 20
BUFFER_BYTES = 64 * 1024

CONTENDERS: dict[str, dict[str, Any]] = {
    "websockets": {"library": "websockets"},
    "websockets, max_queue=None": {"library": "websockets", "options": "max_queue=None"},
    "picows.websockets": {"library": "picows.websockets"},
    "picows.websockets, max_queue=None": {"library": "picows.websockets", "options": "max_queue=None"},
    "fastws: Block, no limit": {},
    "fastws: Block, max_queue=64": {"options": "max_queue=64"},
    "fastws: DropOldest, max_queue=64": {"options": "overflow=DropOldest(), max_queue=64"},
    "fastws: DropOldest, max_queue_age=0.1": {"options": "overflow=DropOldest(), max_queue_age=0.1"},
    "fastws: DropNewest, max_queue=64": {"options": "overflow=DropNewest(), max_queue=64"},
    "fastws: Conflate by pointer": {"options": "overflow=Conflate('/stream')"},
    "fastws: Conflate by Between": {"options": """overflow=Conflate(Between(b'"stream":"', b'"'))"""},
    "fastws: Resync, max_queue=64": {"options": "overflow=Resync('/stream'), max_queue=64", "snapshot_s": 0.1},
    "fastws: Route, max_queue=128": {
        "options": "overflow=Route('/stream', {'*@bookTicker': Conflate(), '*@trade': DropOldest(), "
        "'*@depth': Resync()}), max_queue=128",
        "snapshot_s": 0.1,
    },
    "fastws in a thread: Block, max_queue=64": {"options": "receive='thread', max_queue=64"},
    "fastws in a thread: DropOldest, max_queue=64": {
        "options": "receive='thread', overflow=DropOldest(), max_queue=64"
    },
    "fastws in a thread: Conflate by pointer": {"options": "receive='thread', overflow=Conflate('/stream')"},
    "fastws: Disconnect, max_queue=64": {"options": "overflow=Disconnect(), max_queue=64, on_close='raise'"},
}

COLORS = (
    *("#d62728", "#ff9896", "#8c564b", "#c49c94", "#7f7f7f", "#000000", "#1f77b4"),
    *("#17becf", "#9467bd", "#2ca02c", "#98df8a", "#bcbd22", "#ff7f0e", "#e377c2"),
    *("#aec7e8", "#c5b0d5", "#dbdb8d"),
)


# The table


def row(name: str, outcome: Outcome, offered: int) -> list[str]:
    report, ages = outcome.report, outcome.ages
    ended = "to the end" if outcome.survived else f"{report['after_s']:.2f} s: {report['end']}, {report['code'] or '-'}"
    growth = max((rss for _, rss in outcome.rss), default=0) - (outcome.rss[0][1] if outcome.rss else 0)
    return [
        name,
        "yes" if outcome.survived else "**no**",
        ended,
        f"{len(outcome.slow):,}",
        milliseconds(sorted(ages)[len(ages) // 2]) if ages else "",
        milliseconds(p99(ages)) if ages else "",
        f"{offered - report['sent']:,}",
        lost(outcome),
        told(outcome),
        f"{growth / 1e6:.1f}",
    ]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}"


def lost(outcome: Outcome) -> str:
    """What arrived and wasn't delivered: under a name, or, elsewhere, by counting."""
    if outcome.stats is None:
        return f"{outcome.report['sent'] - len(outcome.seen):,}"
    reasons = dataclasses.asdict(outcome.stats.lost)
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items() if count) or "0"


def told(outcome: Outcome) -> str:
    """What it said of itself besides the exception at the end."""
    if outcome.stats is None:
        return "nothing"
    said = ["figures"] if outcome.stats.lost else []
    if outcome.warned_s is not None:
        said.append(f"warning after {outcome.warned_s:.2f} s")
    counts = Counter(kind for _, kind in outcome.events)
    said += [f"{counts[kind]:,} {kind}" for kind in ("ResyncNeeded",) if counts[kind]]
    return ", ".join(said) or "nothing"


def assert_adds_up(name: str, outcome: Outcome) -> None:
    """Each message that came is delivered, or counted; else the table isn't worth much."""
    stats = outcome.stats
    if stats is not None:
        counted = stats.delivered + stats.queued_messages + stats.answered + stats.lost.total
        # Or it left, be it that the venue had given it up before.
        left = outcome.report["end"] == "closed by consumer" or outcome.report["code"] == Disconnect().code
        complete = left or stats.messages_in == outcome.report["sent"]
        if stats.messages_in != counted or stats.delivered != len(outcome.seen) or not complete:
            raise SystemExit(f"{name}: the sum is wrong: {stats}, {outcome.report}")


HEAD = [
    "contender",
    "survived",
    "cut off after: by, code",
    "consumed",
    "age p50, ms",
    "age p99, ms",
    "never sent",
    "lost of what came",
    "told",
    "memory, MB",
]


# The plot


def svg(outcomes: dict[str, Outcome], seconds: float, title: str) -> str:
    """Age of what is consumed over time, on a logarithmic scale; a dot is where the venue cut off."""
    width, height, left, top, right = 1140, 520, 70, 40, 350
    inner_width, inner_height = width - left - right, height - top - 50
    low, high = 1e-3, 10.0 ** math.ceil(math.log10(seconds))

    def x(at: float) -> float:
        return left + inner_width * min(at, seconds) / seconds

    def y(age: float) -> float:
        return top + inner_height * (1 - math.log10(max(age, low) / low) / math.log10(high / low))

    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/><text x="{left}" y="22" font-size="15">{title}</text>',
    ]
    for power in range(-3, round(math.log10(high)) + 1):
        at = y(10.0**power)
        label = f"{10**power} s" if power >= 0 else f"{10 ** (power + 3)} ms"
        parts.append(f'<line x1="{left}" x2="{left + inner_width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    parts += (
        f'<text x="{x(second):.1f}" y="{top + inner_height + 20}" text-anchor="middle">{second} s</text>'
        for second in range(math.floor(seconds) + 1)
    )
    for number, (name, outcome) in enumerate(outcomes.items()):
        color = COLORS[number % len(COLORS)]
        points = " ".join(f"{x(seen.at):.1f},{y(seen.age_s):.1f}" for seen in outcome.slow)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        if not outcome.survived:
            after = outcome.report["after_s"]
            age = next((seen.age_s for seen in outcome.slow if seen.at >= after), outcome.ages[-1])
            parts.append(f'<circle cx="{x(after):.1f}" cy="{y(age):.1f}" r="5" fill="{color}"/>')
        place = top + 14 + 20 * number
        at = left + inner_width + 20
        parts.append(f'<line x1="{at}" x2="{at + 24}" y1="{place}" y2="{place}" stroke="{color}" stroke-width="3"/>')
        parts.append(f'<text x="{at + 32}" y="{place + 4}">{name}{"" if outcome.survived else " (cut off)"}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def plot(path: Path, outcomes: dict[str, Outcome], seconds: float, title: str) -> None:
    """Draw: SVG by itself, anything else by matplotlib."""
    if path.suffix == ".svg":
        path.write_text(svg(outcomes, seconds, title))
        return
    from matplotlib.figure import Figure

    figure = Figure((11, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="s", ylabel="age of what is consumed, s", yscale="log", xlim=(0, seconds))
    for number, (name, outcome) in enumerate(outcomes.items()):
        color = COLORS[number % len(COLORS)]
        label = name if outcome.survived else f"{name} (cut off)"
        axes.plot(
            [seen.at for seen in outcome.slow], [max(age, 1e-3) for age in outcome.ages], color=color, label=label
        )
        if not outcome.survived:
            axes.axvline(outcome.report["after_s"], color=color, linestyle=":", linewidth=1)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


# The command


def run(venue: Market, name: str, load: Load, pause_s: float, style: str) -> Outcome:
    outcome = consume_apart(venue.port, load, core=cores()[0], pause_s=pause_s, style=style, **CONTENDERS[name])
    outcome.report = venue.report(load.name)
    assert_adds_up(name, outcome)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of overload, for each contender")
    parser.add_argument("--scale", type=float, default=5.0, help="times 2,000 and 20 messages per second")
    parser.add_argument("--style", choices=("awaiting", "blocking", "starving", "stalling"), default="awaiting")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders that have this in their name")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="where to draw; anything but .svg needs matplotlib")
    arguments = parser.parse_args()
    if arguments.plot is not None and arguments.plot.suffix != ".svg":
        import matplotlib  # noqa: F401  Before the work, not after it.
    names = [name for name in CONTENDERS if not arguments.only or any(part in name for part in arguments.only)]
    rate, pause_s = OFFERED * arguments.scale, 1 / (CONSUMED * arguments.scale)
    offered = round(rate * arguments.seconds)
    title = (
        f"Offered {rate:,.0f}/s on 270 streams, consumed {1 / pause_s:,.0f}/s ({arguments.style}) "
        f"for {arguments.seconds:g} s; the venue cuts off 1 s after a ping"
    )
    print(f"{title}.\n\n| {' | '.join(HEAD)} |\n| {' | '.join(['---'] * len(HEAD))} |", flush=True)
    outcomes: dict[str, Outcome] = {}
    with market() as venue:
        if (core := cores()[1]) is not None:
            os.sched_setaffinity(venue.pid, {core})
        for name in names:
            load = Load(name, rate, arguments.seconds, ping_s=0.2, deadline_s=1.0, buffer_bytes=BUFFER_BYTES)
            outcomes[name] = run(venue, name, load, pause_s, arguments.style)
            print(f"| {' | '.join(row(name, outcomes[name], offered))} |", flush=True)
    if arguments.plot is not None:
        plot(arguments.plot, outcomes, arguments.seconds, title)


if __name__ == "__main__":
    main()
