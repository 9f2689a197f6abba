"""A blocked loop, a busy interpreter, idle consumers, many connections: what a receive thread is for, what it costs.

python -m benchmarks.blocked [--part PART ...] [--seconds 10] [--rounds 3] [--loop asyncio]

- ``blocked``: the loop is blocked for so many seconds, by sleeping, by computing in Python, and by a C function that
  keeps the GIL. The peer pings every 50 ms and hangs up when a pong is missing for a third of the time.
- ``computing``: throughput of a flood and of a steady feed beside a thread of Python that computes all the time, and
  beside a process that does, which takes a core but not the GIL.
- ``burst``: what a message costs, counted and worked on, one by one and in batches; on all cores, and with the
  contender on one and the peer on another. Ratios are medians of those of each round.
- ``wakeups``: how long a message is under way to a consumer that waits for it.
- ``many``: 1,000 connections with a message per second each, beside a flood on another one; memory of an idle one.

Contenders take turns; each runs in a process of its own, so does the peer. 60 seconds are those of the claim.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .contenders import CONTENDERS

PERIOD_MS = 50
PACED = (1_000_000, 4_000_000)
"""Messages per second; of the larger one, the peer sends its block every time."""
CONSUMERS = {"counts": "counts", "price": "price of each", "json": "`json.loads` of each"}
HOWS = {"sleep": "`time.sleep`", "compute": "pure Python", "hold": "C with the GIL"}
OURS = ("fastws-thread", "fastws-loop")


class Peer:
    """The process at the other end."""

    def __init__(self, core: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.blocked.peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, [core])
        hello = self.report()
        self.block = hello["block"]
        self._port = hello["port"]

    def report(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def url(self, task: str, **query: int) -> str:
        return f"ws://127.0.0.1:{self._port}/{task}?" + "&".join(f"{name}={value}" for name, value in query.items())

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measured(args: argparse.Namespace, work: str, contender: str, **spec: Any) -> Any:
    """What a worker has found."""
    command = [sys.executable, "-m", "benchmarks.blocked.worker"]
    spec = {"cores": None} | spec | {"work": work, "contender": contender, "loop": args.loop}
    done = subprocess.run([*command, json.dumps(spec)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    head = list(head)
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def part_blocked(args: argparse.Namespace, peer: Peer) -> None:
    rows = []
    url = peer.url("pings", period_ms=PERIOD_MS, cutoff_ms=int(args.seconds * 1000 / 3))
    for how in args.how:
        name = HOWS[how]
        for contender in args.contender:
            measured(args, "blocked", contender, url=url, how=how, seconds=args.seconds)
            report = peer.report()
            waits = [wait for wait in report["waits_s"] if wait is not None]
            figures = [milliseconds(quantile(waits, part)) for part in (0.5, 0.99, 0.999, 1)] if waits else ["-"] * 4
            survived = {"by the contender": "yes", "cut off": "**cut off**"}.get(report["ended"], report["ended"])
            answered = f"{len(waits)} of {len(report['waits_s'])}"
            rows.append((name, CONTENDERS[contender], answered, *figures, survived))
    table(
        f"The loop is blocked for {args.seconds:g} s; ms from a ping to its pong, as the peer sees it",
        ("by", "contender", "answered", "p50", "p99", "p99.9", "most", "survived"),
        rows,
    )


def received(args: argparse.Namespace, contender: str, batches: bool, **spec: Any) -> Any:
    spec = {"computing": "nowhere"} | spec
    return measured(args, "received", contender, batches=batches, **spec)


def ways(args: argparse.Namespace) -> list[tuple[str, bool, str]]:
    """(contender, whether in batches, title)."""
    found = []
    for contender in args.contender:
        found.append((contender, False, CONTENDERS[contender]))
        if contender in OURS:
            found.append((contender, True, f"{CONTENDERS[contender]}, batches"))
    return found


def part_computing(args: argparse.Namespace, peer: Peer) -> None:
    rows = []
    flood = peer.url("flood", ms=2000)
    feeds = [(flood, "counts", ""), (flood, "json", "")]
    feeds += [(peer.url("paced", ms=2000, rate=rate), "counts", f", {rate:,} are sent") for rate in PACED]
    for url, consumer, sent in feeds:
        for contender, batches, title in ways(args):
            rates: dict[str, list[float]] = {"nowhere": [], "process": [], "thread": []}
            for _ in range(args.rounds):
                for computing in rates:
                    result = received(args, contender, batches, url=url, computing=computing, consumer=consumer)
                    rates[computing].append(result["count"] / result["wall_ns"] * 1e9)
            alone, process, thread = (statistics.median(values) for values in rates.values())
            figures = [f"{rate:,.0f}" for rate in (alone, process, thread)]
            figures += [f"{thread / other:.0%}" for other in (alone, process)]
            rows.append((CONSUMERS[consumer] + sent, title, *figures))
    table(
        "Messages per second of 150 bytes, alone and beside a process and a thread that compute all the time",
        ("consumer", "contender", "alone", "process", "thread", "thread ÷ alone", "thread ÷ process"),
        rows,
    )


def part_burst(args: argparse.Namespace, peer: Peer) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    rows = burst_rows(args, peer, None)
    if len(cores) > 1:
        with Peer(cores[0]) as pinned:
            rows += burst_rows(args, pinned, cores[1])
    head = ("cores", "consumer", "way", "CPU, thread", "CPU, loop", "ratio", "wall, thread", "wall, loop", "ratio")
    table("A burst of 150-byte messages: ns per message, CPU of all threads of the process", head, rows)


def burst_rows(args: argparse.Namespace, peer: Peer, core: int | None) -> list[tuple[str, ...]]:
    rows = []
    for consumer, blocks in (("counts", 50), ("price", 20), ("json", 10)):
        url = peer.url("burst", blocks=blocks)
        for batches in (False, True):
            results: dict[str, list[Any]] = {contender: [] for contender in OURS}
            for _ in range(args.rounds):
                for contender in OURS:
                    spec = {"url": url, "consumer": consumer, "cores": None if core is None else [core]}
                    result = received(args, contender, batches, **spec)
                    if result["count"] != blocks * peer.block:
                        sys.exit(f"{contender} got {result['count']} messages of {blocks * peer.block}")
                    results[contender].append(result)
            figures: list[str] = []
            for name in ("cpu_ns", "wall_ns"):
                values = [[result[name] / result["count"] for result in results[contender]] for contender in OURS]
                ratio = statistics.median(thread / loop for thread, loop in zip(*values, strict=True))
                figures += [*(f"{statistics.median(value):,.0f}" for value in values), f"{ratio:.2f}"]
            where = "all" if core is None else "one"
            rows.append((where, CONSUMERS[consumer], "batches" if batches else "`async for`", *figures))
    return rows


def part_wakeups(args: argparse.Namespace, peer: Peer) -> None:
    waits: dict[str, list[float]] = {contender: [] for contender in args.contender}
    for _ in range(args.rounds):
        for contender in args.contender:
            waits[contender] += measured(args, "ticked", contender, url=peer.url("ticks", count=700))["waits_ns"]
    rows = [
        (CONTENDERS[contender], *(f"{quantile(values, part) / 1000:,.0f}" for part in (0.5, 0.9, 0.99)))
        for contender, values in waits.items()
    ]
    table(
        "An idle consumer: µs from the peer's `send` to the handler",
        ("contender", "p50", "p90", "p99"),
        rows,
    )


def part_many(args: argparse.Namespace, peer: Peer) -> None:
    rows = []
    seconds = max(3, args.seconds / 2)
    with Peer() as flooding:
        for contender in OURS:
            for flood in (False, True):
                result = measured(
                    args,
                    "trickled",
                    contender,
                    connections=args.connections,
                    idle=peer.url("idle"),
                    timer=peer.url("trickle", connections=args.connections, ms=int(seconds * 1000)),
                    flood=flooding.url("flood", ms=int(seconds * 1000 + 2000)) if flood else "",
                )
                figures = [
                    milliseconds(quantile(result[name], part) / 1e9)
                    for name in ("reads_ns", "waits_ns")
                    for part in (0.5, 0.999, 1)
                ]
                rate = f"{result['flooded'] / seconds:,.0f}" if flood else "none"
                rows.append((CONTENDERS[contender], rate, *figures, f"{result['idle_bytes'] / 1024:.1f} KiB"))
    head = ("contender", "flood, messages/s", "read p50", "p99.9", "most", "handled p50", "p99.9", "most")
    table(
        f"{args.connections:,} connections with a message per second each; ms from the peer's `send`",
        (*head, "memory of an idle one"),
        rows,
    )


PARTS: dict[str, Callable[[argparse.Namespace, Peer], None]] = {
    "blocked": part_blocked,
    "computing": part_computing,
    "burst": part_burst,
    "wakeups": part_wakeups,
    "many": part_many,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--how", nargs="+", choices=HOWS, default=list(HOWS), help="by what the loop is blocked")
    parser.add_argument("--seconds", type=float, default=10, help="how long the loop is blocked")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--connections", type=int, default=1000)
    args = parser.parse_args()
    with Peer() as peer:
        for part in args.part:
            PARTS[part](args, peer)


if __name__ == "__main__":
    main()
