"""``fastws demo``: fastws and websockets on the same feed, side by side."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import fastws

from ..market.feed_process import FeedError, FeedProcess, feed_process
from ..market.process import Child, child
from . import blocked
from .demo_result import RECEIVERS, Measured, as_json, notes, table, verdict
from .errors import CommandError
from .progress import Progress

__all__ = ["add_parser", "main"]

SECONDS = 2.0
BLOCKED_S = 5.0
BLOCKED_MIN_S = 0.1
RATE = 20_000.0
RATE_MAX = 1_000_000.0

SAMPLE_EVERY = 7
"""A prime, so that the sample doesn't fall in step with messages that come in groups."""

SAMPLES_MIN = 1_000
"""As long as there are so many messages; a p99 wants them."""

SAMPLES_MAX = 100_000

WAITED_SHARE = 0.1
"""Share of the time that the paced feed has to wait for a receiver that is slower than it."""

SLACK_S = 30.0
"""What a part may take longer than it should, on a machine that is busy, before it counts as stuck."""

DESCRIPTION = """\
Start a feed of an exchange in a process of its own and receive it with fastws (`async for`, and batches) and with
websockets (`async for`), each in a process of its own: first as fast as it can, then at a given rate. Every
message that was sent is accounted for. At last the loops of three receivers are blocked while the feed pings them.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo", help="see fastws and websockets receive the same feed", description=DESCRIPTION
    )
    parser.add_argument(
        "--seconds",
        "--duration",
        type=_number(0.05, 3600.0),
        default=SECONDS,
        metavar="S",
        help="length of each of the two parts for each receiver (default: %(default)g)",
    )
    parser.add_argument(
        "--rate",
        type=_number(1.0, RATE_MAX),
        default=RATE,
        metavar="R",
        help="messages per second that are offered in the second part, where ages are measured (default: %(default)g)",
    )
    parser.add_argument(
        "--recording",
        metavar="FILE",
        help="play the messages received in a recording, over and over, instead of the simulated exchange",
    )
    parser.add_argument(
        "--blocked",
        type=_number(BLOCKED_MIN_S, 3600.0, or_zero=True),
        default=BLOCKED_S,
        metavar="S",
        help="how long loops are blocked in the last part; 0 leaves it out (default: %(default)g)",
    )
    parser.add_argument(
        "--loop",
        choices=["asyncio", "uvloop"],
        help="event loop of the receivers (default: uvloop if it is installed)",
    )
    parser.add_argument(
        "--port", type=_port, default=0, metavar="P", help="port of the feed on 127.0.0.1 (default: any free one)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.set_defaults(main=main)


def _number(least: float, most: float, *, or_zero: bool = False) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most and not (or_zero and value == 0.0):
            raise argparse.ArgumentTypeError(f"{text} isn't between {least:g} and {most:,.0f}")
        return value

    return number


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} isn't between 0 and 65535")
    return port


def main(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    if args.loop == "uvloop" and not has_uvloop:
        raise CommandError("--loop uvloop: uvloop isn't installed")
    args.loop = args.loop or ("uvloop" if has_uvloop else "asyncio")
    progress = Progress(sys.stderr)
    try:
        feed, measured, stalled = asyncio.run(_demo(args, progress))
    except FeedError as exc:
        progress.clear()
        raise CommandError(str(exc)) from None
    except BaseException:
        progress.clear()
        raise
    progress.clear()
    shown = json.dumps(_document(args, feed, measured, stalled), indent=2) if args.json else None
    print(shown or _page(args, feed, measured, stalled))
    return 0


async def _demo(
    args: argparse.Namespace, progress: Progress
) -> tuple[FeedProcess, list[Measured], list[blocked.Blocked]]:
    async with feed_process(args.recording, args.port) as feed:
        measured = [await _measure(args, progress, feed, receiver) for receiver in RECEIVERS]
    if not args.blocked:
        return feed, measured, []
    return feed, measured, await blocked.measure(args.blocked, args.loop, args.recording, progress)


async def _measure(args: argparse.Namespace, progress: Progress, feed: FeedProcess, receiver: str) -> Measured:
    name = RECEIVERS[receiver]
    given = {
        "receiver": receiver,
        "loop": args.loop,
        "port": feed.port,
        "seconds": args.seconds,
        "rate": args.rate,
        "sample": sample_every(args.rate * args.seconds),
    }
    async with child(f"{__package__}.receiver", given) as process:
        progress.step(f"{name}, as fast as it can")
        sent, burst = await _part(args, progress, feed, process, name)
        progress.step(f"{name}, at {args.rate:,.0f} messages/s")
        paced_sent, paced = await _part(args, progress, feed, process, name)
    for one, other, what in (
        (burst["messages"], sent["sent"], "messages were received, {} sent"),
        (paced["messages"], paced_sent["sent"], "messages were received, {} sent"),
        (paced["crc32"], paced_sent["crc32"], "is the CRC-32 of what was received, {} of what was sent"),
    ):
        if one != other:
            raise CommandError(f"{name}: {one} {what.format(other)}", status=1)
    ages = sorted(seen - due for seen, due in zip(paced["seen_ns"], paced_sent["due_ns"], strict=True))
    return Measured(
        receiver,
        burst["messages"],
        burst["cpu_s"],
        burst["wall_s"],
        burst["memory_bytes"],
        paced["messages"],
        paced_sent["offered"],
        paced_sent["waited_s"] > WAITED_SHARE * args.seconds,
        ages,
    )


def sample_every(messages: float) -> int:
    """Of how many messages one's age is taken.

    Args:
        messages: That are to come.
    """
    return max(1, min(SAMPLE_EVERY, int(messages / SAMPLES_MIN)), math.ceil(messages / SAMPLES_MAX))


async def _part(
    args: argparse.Namespace, progress: Progress, feed: FeedProcess, process: Child, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One part of a receiver: (the feed's last report, the receiver's answer)."""
    reporting = asyncio.create_task(_sent(feed, progress))
    try:
        async with asyncio.timeout(args.seconds + SLACK_S):
            received = await process.read()
            if received is None:
                raise CommandError(f"{name}: the receiver has died", status=1)
            if "error" in received:
                raise CommandError(f"{name}: {received['error']}", status=1)
            sent = await reporting
    except TimeoutError:
        raise CommandError(f"{name}: stuck", status=1) from None
    finally:
        reporting.cancel()
        await asyncio.wait([reporting])
    if "lost" in sent:
        raise CommandError(f"{name}: the feed has lost its receiver: {sent['lost']}", status=1)
    return sent, received


async def _sent(feed: FeedProcess, progress: Progress) -> dict[str, Any]:
    """The feed's report at the end of a connection."""
    while (report := await feed.report()) is not None:
        if "progress" not in report:
            return report
        progress.figure(f"{report['progress']:,} messages sent")
    raise CommandError("the feed has died", status=1)


def _header(args: argparse.Namespace, feed: FeedProcess) -> dict[str, Any]:
    return {
        "fastws": fastws.__version__,
        "implementation": fastws.IMPLEMENTATION,
        "websockets": importlib.metadata.version("websockets"),
        "python": platform.python_version(),
        "loop": args.loop,
        "cores": os.cpu_count(),
        "feed": {
            "recording": args.recording,
            "messages": feed.messages,
            "mean_bytes": feed.mean_bytes,
            "max_bytes": feed.max_bytes,
            "complete": feed.complete,
        },
        "seconds": args.seconds,
        "rate": args.rate,
    }


def _document(
    args: argparse.Namespace, feed: FeedProcess, measured: list[Measured], stalled: list[blocked.Blocked]
) -> dict[str, Any]:
    return {
        **_header(args, feed),
        "receivers": as_json(measured),
        "notes": notes(measured, args.seconds, args.rate),
        "verdict": verdict(measured, args.rate),
        "blocked": blocked.as_json(stalled, args.blocked) if args.blocked else None,
    }


def _page(args: argparse.Namespace, feed: FeedProcess, measured: list[Measured], stalled: list[blocked.Blocked]) -> str:
    head = _header(args, feed)
    source = "a simulated exchange" if args.recording is None else args.recording
    if not feed.complete:
        source = f"the beginning of {source}"
    total = sum(one.messages + one.paced_messages for one in measured)
    last = [blocked.table(stalled, args.blocked), "", *blocked.notes(stalled, args.blocked), ""] if stalled else []
    return "\n".join(
        [
            f"fastws {head['fastws']} ({head['implementation']}) and websockets {head['websockets']} "
            f"on {args.loop}, Python {head['python']}, {head['cores']} cores",
            f"feed: {source}, {feed.messages:,} messages over and over, {feed.mean_bytes:,.0f} bytes on average, "
            f"{feed.max_bytes:,} at most",
            "",
            table(measured),
            "",
            *notes(measured, args.seconds, args.rate),
            f"All {total:,} messages sent were received: counted at full speed, compared by CRC-32 when paced.",
            "",
            *last,
            verdict(measured, args.rate),
        ]
    )
