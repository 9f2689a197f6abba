"""The demo's row of blocked loops: who is still connected when Python comes back, and with which messages."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import Any

from ..core import IMPLEMENTATION
from ..market.process import Child, child
from .errors import CommandError
from .progress import Progress

__all__ = ["RATE", "RECEIVERS", "Blocked", "as_json", "left_out", "measure", "notes", "ping_timeout_s", "table"]

RECEIVERS = {
    "thread": 'fastws receive="thread"',
    "loop": 'fastws receive="loop"',
    "websockets": "websockets",
}
"""Whose loops are blocked, and what they are called in the table."""

RATE = 1000.0
"""Messages per second, and bytes: few enough that kernels hold what comes meanwhile, so that pings aren't stuck."""
BYTES_PER_S = 250_000.0

_AFTER_S = 0.5
"""From the first message to the block, and from its end to the end of the feed."""

_PING_EVERY_S = 0.1
_PINGS_MIN = 20
"""While the loop is blocked, however short that is."""

_SLACK_S = 30.0
"""What it may take longer than it should, on a machine that is busy, before it counts as stuck."""


@dataclasses.dataclass(frozen=True, slots=True)
class Blocked:
    """What became of one receiver.

    Attributes:
        receiver: A key of `RECEIVERS`.
        pings: That the peer has sent it.
        answered: Of these; until it was cut off, if it was.
        slowest_s: Longest time from a ping to its pong, of those answered; None if there was none.
        code: Close code: 1000 is the end of the feed.
        newest_s: Age of the newest message in what it received first when Python came back; None if it got none.
        due: Messages that the feed had for it, up to the end.
        messages: That it got.
        told: Of the others, how many it was told are lost.
        rate: Messages per second.
    """

    receiver: str
    pings: int
    answered: int
    slowest_s: float | None
    code: int
    newest_s: float | None
    due: int
    messages: int
    told: int
    rate: float

    @property
    def name(self) -> str:
        return RECEIVERS[self.receiver]

    @property
    def survived(self) -> bool:
        return self.code == 1000

    @property
    def missed(self) -> int:
        """Messages that it didn't get."""
        return self.due - self.messages


def ping_timeout_s(seconds: float) -> float:
    """How long a pong may be missing, where loops are blocked for so long."""
    return seconds / 2


def left_out() -> str | None:
    """Why there is no receive thread; None if there is one."""
    return None if IMPLEMENTATION == "compiled" else "it needs the compiled core, and FASTWS_PURE is set"


async def measure(seconds: float, loop: str, recording: str | None, progress: Progress) -> list[Blocked]:
    """Block the loops of all receivers at the same time.

    Args:
        seconds: For so long each.
        loop: "asyncio" or "uvloop", of the receivers.
        recording: File to play; None is the simulated exchange.
        progress: Where to show how far it is.

    Raises:
        CommandError: If a process dies or is stuck, or if what was received doesn't add up.
    """
    total_s = seconds + 2 * _AFTER_S
    names = [receiver for receiver in RECEIVERS if receiver != "thread" or left_out() is None]
    given = {
        "recording": recording,
        "rate": RATE,
        "bytes_per_s": BYTES_PER_S,
        "seconds": total_s,
        "ping_every_s": min(_PING_EVERY_S, seconds / _PINGS_MIN),
        "ping_timeout_s": ping_timeout_s(seconds),
    }
    progress.step(f"loops blocked for {seconds:g} s")
    async with contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(child(f"{__package__}.blocked_peer", given))
        try:
            async with asyncio.timeout(total_s + _SLACK_S):
                hello = await _answer(peer, "the feed of blocked loops")
                processes = {}
                for name in names:
                    task = {
                        "receiver": name,
                        "loop": loop,
                        "port": hello["port"],
                        "after_s": _AFTER_S,
                        "blocked_s": seconds,
                    }
                    started = child(f"{__package__}.blocked_receiver", task)
                    processes[name] = await stack.enter_async_context(started)
                showing = asyncio.create_task(_show(progress, total_s))
                try:
                    received = {name: await _answer(process, RECEIVERS[name]) for name, process in processes.items()}
                    reports = [await _answer(peer, "the feed of blocked loops") for _ in names]
                finally:
                    showing.cancel()
                    await asyncio.wait([showing])
        except TimeoutError:
            raise CommandError("blocked loops: stuck", status=1) from None
    sent = {report["receiver"]: report for report in reports}
    return [_result(sent[name], received[name], hello["rate"]) for name in names]


async def _answer(process: Child, name: str) -> dict[str, Any]:
    answer = await process.read()
    if answer is None:
        raise CommandError(f"{name}: the process has died", status=1)
    if "error" in answer:
        raise CommandError(f"{name}: {answer['error']}", status=1)
    return answer


async def _show(progress: Progress, seconds: float) -> None:
    started = time.monotonic()
    while True:
        progress.figure(f"{min(time.monotonic() - started, seconds):.1f} of {seconds:.1f} s")
        await asyncio.sleep(0.2)


def _result(sent: dict[str, Any], received: dict[str, Any], rate: float) -> Blocked:
    name = RECEIVERS[sent["receiver"]]
    if sent["lost"] is not None:
        raise CommandError(f"{name}: the feed has lost its receiver: {sent['lost']}", status=1)
    messages, told = received["messages"], received["lost"]
    # Who was cut off may have left something unread.
    if messages + told > sent["sent"] or (not sent["cut_off"] and messages + told < sent["sent"]):
        raise CommandError(f"{name}: {messages} messages were received and {told} lost, {sent['sent']} sent", status=1)
    newest_s = None
    if received["newest"] is not None:
        newest_s = (received["back_ns"] - sent["start_ns"]) / 1e9 - received["newest"] / rate
    return Blocked(
        sent["receiver"],
        sent["pings"],
        sent["answered"],
        sent["slowest_s"],
        received["code"],
        newest_s,
        sent["due"],
        messages,
        told,
        rate,
    )


def table(measured: list[Blocked], seconds: float) -> str:
    """A line for each receiver."""
    rows = [(f"loop blocked for {seconds:g} s", "pings answered", "slowest", "connection", "newest", "missed", "told")]
    rows += [
        (
            one.name,
            f"{one.answered:,} of {one.pings:,}",
            _slowest(one, ping_timeout_s(seconds)),
            "survived" if one.survived else f"cut off, {one.code}",
            "-" if one.newest_s is None else _milliseconds(one.newest_s),
            f"{one.missed:,}",
            f"{one.told:,}",
        )
        for one in measured
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _slowest(one: Blocked, timeout_s: float) -> str:
    if one.answered < one.pings:
        return f"> {_milliseconds(timeout_s)}"
    return "-" if one.slowest_s is None else _milliseconds(one.slowest_s)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def notes(measured: list[Blocked], seconds: float) -> list[str]:
    """What the figures mean."""
    lines = [
        f"blocked: `time.sleep({seconds:g})` in mid-feed of {measured[0].rate:,.0f} messages/s; "
        f"who leaves a ping unanswered for {ping_timeout_s(seconds):g} s is cut off.",
        "newest: age of the newest message in what is received first afterwards; missed: messages that didn't come,",
        "told: of these, as lost by the policy, DropOldest.",
    ]
    if (reason := left_out()) is not None:
        lines.append(f"{RECEIVERS['thread']} is left out: {reason}.")
    return lines


def as_json(measured: list[Blocked], seconds: float) -> dict[str, Any]:
    """The figures with their units in their names; null where there is none."""
    return {
        "seconds": seconds,
        "rate": measured[0].rate,
        "ping_timeout_s": ping_timeout_s(seconds),
        "left_out": {} if (reason := left_out()) is None else {RECEIVERS["thread"]: reason},
        "receivers": [
            {
                "receiver": one.name,
                "survived": one.survived,
                "code": one.code,
                "pings": one.pings,
                "answered": one.answered,
                "slowest_ms": None if one.slowest_s is None else one.slowest_s * 1e3,
                "newest_ms": None if one.newest_s is None else one.newest_s * 1e3,
                "due": one.due,
                "messages": one.messages,
                "missed": one.missed,
                "told": one.told,
            }
            for one in measured
        ],
    }
