"""What it costs to decide about each message: nanoseconds over plain Block, for each policy and for inspection.

From the root of the repository: ``python -m benchmarks.core.policies``. Messages are trades of about 146 bytes on 270
symbols, one of each symbol in a read, and all are taken after each read: so nothing is lost, and what is compared
queues and delivers the same messages. With "overload" nothing is taken, and nearly all are conflated or dropped.
CPU time of one process; the policies take turns, and the best of each is compared with the best of Block.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    # Run by its path: modules are looked for from the root of the repository.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from benchmarks import messages
from benchmarks.core.cases import core
from benchmarks.loops.frames import Stream
from fastws.observe.pressure import Episode
from fastws.options import Options
from fastws.overflow import Between, Conflate, DropOldest, ExchangeTime, Inspect, Reply, Resync, Route

__all__ = ["COUNT", "OBSERVED", "POLICIES", "decode", "nbytes", "overload"]

KEYS = 270
READS = 37
COUNT = KEYS * READS

BETWEEN = Between(b'"s":"', b'"')

POLICIES: dict[str, dict[str, Any]] = {
    "Block": {},
    "DropOldest": {"overflow": DropOldest(), "max_queue": 1000},
    "Conflate, pointer": {"overflow": Conflate("/s")},
    "Conflate, two pointers": {"overflow": Conflate(("/e", "/s"))},
    "Conflate, Between": {"overflow": Conflate(BETWEEN)},
    "Resync, pointer": {"overflow": Resync("/s"), "max_queue": 1000},
    "Route, pointer": {
        "overflow": Route("/e", {"bookTicker": Conflate("/s"), "agg*": DropOldest(), "*": Resync()}),
        "max_queue": 1000,
    },
    "Inspect, per key": {"inspect": Inspect("/l", key="/s", first="/f")},
    "Inspect, Between": {"inspect": Inspect("/l", key=BETWEEN, first="/f")},
    "ExchangeTime": {"exchange_time": ExchangeTime("/E")},
    "Reply": {"replies": [Reply({"/e": "heartbeat"}, "")]},
}
"""Arguments of the decoder."""

OBSERVED = "Block, observed"
"""Block, and after each read all that a connection looks at: every figure of its stats, and the default thresholds."""


@functools.cache
def chunks() -> list[bytes]:
    """Reads of a message for each symbol."""
    texts = [
        re.sub(r'"s":"\w+"', f'"s":"S{number % KEYS:03d}USDT"', text)
        for number, text in enumerate(messages.trades(COUNT))
    ]
    return [Stream.of(texts[start : start + KEYS], "").wire for start in range(0, COUNT, KEYS)]


def nbytes() -> int:
    """Bytes of all frames."""
    return sum(map(len, chunks()))


def decode(name: str, policy: str) -> int:
    """Decode and take everything with a new decoder; returns the number of messages delivered."""
    decoder = core(name).FrameDecoder("client", **POLICIES["Block" if policy == OBSERVED else policy])
    look = _observer(name, decoder) if policy == OBSERVED else None
    count = 0
    for chunk in chunks():
        decoder.feed(chunk)
        if look is not None:
            look()
        count += len(decoder.take())
    return count


def overload(name: str, policy: str) -> int:
    """Decode everything and take nothing; returns the number of messages that wait."""
    decoder = core(name).FrameDecoder("client", **POLICIES[policy])
    for chunk in chunks():
        decoder.feed(chunk)
    return int(decoder.queued_messages)


def _observer(name: str, decoder: Any) -> Callable[[], None]:
    turn = core(name).Turn(decoder)
    episodes = [Episode(threshold) for threshold in Options().all_thresholds(None)]

    def look() -> None:
        figures = {"messages": decoder.queued_messages, "bytes": decoder.queued_bytes, "age": decoder.oldest_ns / 1e9}
        for episode in episodes:
            episode.update(time.monotonic(), figures, decoder.blocked)
        _ = (
            *(decoder.messages_received, decoder.bytes_received, decoder.delivered, decoder.answered),
            *(decoder.queued_messages_max, decoder.queued_bytes_max, decoder.lost, decoder.gaps),
            *(decoder.lost_by_key(), decoder.exchange_lag_ns, turn.wait, turn.processing),
        )

    return look


def best(function: Callable[[str, str], int], name: str, policies: list[str], seconds: float) -> dict[str, float]:
    """Nanoseconds of CPU for a message, the best of the rounds that fit into the time."""
    found = dict.fromkeys(policies, float("inf"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for policy in policies:
            start = time.process_time_ns()
            function(name, policy)
            found[policy] = min(found[policy], (time.process_time_ns() - start) / COUNT)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each of the two tables")
    parser.add_argument("--core", choices=("compiled", "reference"), default="compiled")
    arguments = parser.parse_args()
    shedding = ["DropOldest", "Conflate, pointer", "Conflate, two pointers", "Conflate, Between"]
    kept = best(decode, arguments.core, [*POLICIES, OBSERVED], arguments.seconds)
    shed = best(overload, arguments.core, ["Block", *shedding], arguments.seconds)
    print(f"{nbytes() / COUNT:.0f} bytes, {arguments.core}\n")
    print("| | ns per message | over Block, ns | times Block | overload: ns per message |\n|" + " --- |" * 5)
    for policy, ns in kept.items():
        over = ns - kept["Block"]
        cell = f"{shed[policy]:.0f}" if policy in shed else ""
        print(f"| {policy} | {ns:.0f} | {over:.0f} | {ns / kept['Block']:.2f} | {cell} |")


if __name__ == "__main__":
    main()
