"""A consumer that is too slow, whichever library it uses, and what it sees.

    python -m overload.consumer SPEC          # from tests/; SPEC and result are JSON

Consumers in a process of their own measure memory, other libraries, or the plain-Python data plane (FASTWS_PURE=1).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import importlib
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastws
from fastws import Lost

from .venue import Load

__all__ = ["Market", "Outcome", "Seen", "SeenLog", "consume", "consume_apart", "market", "p99", "rss_bytes"]

TESTS = Path(__file__).parent.parent
_REPORT_S = 15.0
_STALL_S = 1.5


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A message that was consumed.

    Attributes:
        at: When, since the start.
        age_s: How old it was: since it was due at the venue.
        stream: Its key.
        n: Its number in the connection, from 1.
        u: Last number of its stream that it covers.
        pu: Last number of its predecessor.
        slow: Whether the consumer was slow then; it hurries at the end.
    """

    at: float
    age_s: float
    stream: str
    n: int
    u: int
    pu: int
    slow: bool


class SeenLog(Sequence[Seen]):
    """What was consumed, in some 50 bytes a message: so that memory tells of the connection, not of the bench."""

    def __init__(self, rows: Iterable[Seen] = ()) -> None:
        self._streams: list[str] = []
        self._indices: dict[str, int] = {}
        # A column for each attribute of `Seen`.
        self._columns = [array.array(code) for code in "ddHQQQB"]
        for row in rows:
            self.append(row)

    def append(self, seen: Seen) -> None:
        if seen.stream not in self._indices:
            self._indices[seen.stream] = len(self._streams)
            self._streams.append(seen.stream)
        row = dataclasses.astuple(dataclasses.replace(seen, stream=self._indices[seen.stream]))
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        at, age_s, stream, n, u, pu, slow = (column[index] for column in self._columns)
        return Seen(at, age_s, self._streams[stream], n, u, pu, bool(slow))


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a connection.

    Attributes:
        seen: Messages in the order in which they were consumed.
        told: (how many were seen before, lost) of each batch.
        events: What ``on_event`` was given: (how many messages were seen before, event).
        warned_s: When the first `SlowConsumer` came; None if none did.
        ended: "end" or the exception.
        report: The venue's; see there.
        stats: Of fastws, else None.
        rss: (seconds, resident bytes) from time to time.
    """

    seen: SeenLog = dataclasses.field(default_factory=SeenLog)
    told: list[tuple[int, Any]] = dataclasses.field(default_factory=list)
    events: list[tuple[int, Any]] = dataclasses.field(default_factory=list)
    warned_s: float | None = None
    ended: str = ""
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    stats: Any = None
    rss: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether the venue came to its own end."""
        return self.report["end"] == "finished"

    @property
    def slow(self) -> list[Seen]:
        """Messages that were consumed while it was overloaded."""
        return [seen for seen in self.seen if seen.slow]

    @property
    def ages(self) -> list[float]:
        return [seen.age_s for seen in self.slow]


def p99(values: list[float]) -> float:
    """99 of 100 are no more than this; of fewer than 100, the most."""
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


# The venue's process


class Market:
    """A running venue.

    Args:
        process: Its process.

    Attributes:
        port: Where it listens.
        pid: Its process's.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.pid = process.pid
        self.port = int(self._lines.readline())
        self._reports: dict[str, dict[str, Any]] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._lines:
            report = json.loads(line)
            with self._news:
                self._reports[report["name"]] = report
                self._news.notify_all()

    def report(self, name: str) -> dict[str, Any]:
        """Wait for what became of a connection."""
        with self._news:
            assert self._news.wait_for(lambda: name in self._reports, _REPORT_S), f"no report of {name}"
            return self._reports.pop(name)


@contextlib.contextmanager
def market() -> Iterator[Market]:
    """Start a venue."""
    process = subprocess.Popen([sys.executable, "-m", "overload.venue"], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    try:
        yield Market(process)
    finally:
        process.kill()
        process.communicate()


# The consumer


async def _pause(style: str, seconds: float, number: int) -> None:
    if style == "awaiting":
        await asyncio.sleep(seconds)
    elif style == "blocking":
        time.sleep(seconds)  # noqa: ASYNC251  That's the mistake.
    elif style == "stalling":
        if number % round(_STALL_S / seconds) == 0:
            time.sleep(_STALL_S)  # noqa: ASYNC251
    else:
        assert style == "starving", style
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass


async def _messages(ws: Any, outcome: Outcome, batch: int | None) -> AsyncIterator[list[Any]]:
    if batch is None:
        async for message in ws:
            yield [message]
        return
    async for taken in ws.batches(batch):
        outcome.told.append((len(outcome.seen), taken.lost))
        yield list(taken)


async def consume(
    port: int,
    load: Load,
    *,
    library: str = "fastws",
    style: str = "awaiting",
    pause_s: float = 0.05,
    batch: int | None = None,
    snapshot_s: float | None = None,
    **options: Any,
) -> Outcome:
    """Connect, be slow as long as the load lasts, then hurry to the end.

    Args:
        port: The venue's.
        load: What it is to do.
        library: "fastws", "websockets" or "picows.websockets".
        style: How it is slow: "awaiting" asyncio.sleep(), "blocking" the loop with time.sleep(), "starving" it with
            computing and no await but that of the iteration, or "stalling" it: blocking for 1.5 s now and then, and
            quick in between.
        pause_s: Seconds for each message.
        batch: Messages in a batch; None iterates on messages.
        snapshot_s: How long a snapshot takes, whereupon it says ``resynced()``; None never does.
        **options: Of ``connect``.
    """
    outcome = Outcome()
    if library == "fastws":

        def on_event(ws: Any, event: Any) -> None:
            outcome.events.append((len(outcome.seen), event))
            if outcome.warned_s is None and isinstance(event, fastws.SlowConsumer):
                outcome.warned_s = time.monotonic() - started
            if snapshot_s is not None and isinstance(event, fastws.ResyncNeeded):
                ws.loop.call_later(snapshot_s, ws.resynced, event.key)

        options["on_event"] = on_event
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, load.buffer_bytes)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    module = importlib.import_module(library)
    logger = logging.getLogger("overload")
    logger.setLevel(logging.CRITICAL)
    options = {"compression": None, "ping_interval": None, "proxy": None, "logger": logger, **options}
    started = time.monotonic()
    ws = await module.connect(f"ws://127.0.0.1:{port}{load.path}", sock=sock, **options)
    started = time.monotonic()
    end = started + load.seconds
    outcome.ended = "end"
    watching = asyncio.ensure_future(_watch_memory(outcome, started))
    try:
        async for group in _messages(ws, outcome, batch):
            for message in group:
                now = time.monotonic()
                slow = now < end
                envelope = json.loads(message)
                data = envelope["data"]
                age_s = now - data["E"] / 1e9
                outcome.seen.append(
                    Seen(now - started, age_s, envelope["stream"], data["n"], data["u"], data["pu"], slow)
                )
                if slow:
                    await _pause(style, pause_s, len(outcome.seen))
    except module.ConnectionClosed as exc:
        outcome.ended = f"{type(exc).__name__}: {exc}"
    watching.cancel()
    await ws.close()
    outcome.stats = getattr(ws, "stats", None)
    return outcome


async def _watch_memory(outcome: Outcome, started: float) -> None:
    while True:
        outcome.rss.append((time.monotonic() - started, rss_bytes()))
        await asyncio.sleep(0.1)


def rss_bytes() -> int:
    """Resident memory of this process now; where the system doesn't tell, the most it ever was."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


# In a process of its own


def consume_apart(
    port: int, load: Load, *, pure: bool = False, core: int | None = None, options: str = "", **kwargs: Any
) -> Outcome:
    """Consume in another process; blocks. Events and stats come back as what they were in JSON.

    Args:
        port: The venue's.
        load: What it is to do.
        pure: Whether fastws runs on its plain-Python data plane.
        core: Which it runs on; None is any.
        options: Of ``connect``, as Python source: "overflow=DropOldest(), max_queue=8".
        **kwargs: Of `consume`.
    """
    spec = json.dumps({"port": port, "load": dataclasses.asdict(load), "core": core, "options": options, **kwargs})
    environment = {**os.environ, "FASTWS_PURE": "1" if pure else "0"}
    command = [sys.executable, "-m", "overload.consumer", spec]
    done = subprocess.run(
        command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=load.seconds + 60
    )
    outcome = Outcome(**json.loads(done.stdout))
    outcome.seen = SeenLog(Seen(*row) for row in outcome.seen)  # type: ignore[misc]
    if outcome.stats is not None:
        outcome.stats["lost"] = Lost(**outcome.stats["lost"])
        outcome.stats = SimpleNamespace(**outcome.stats)
    return outcome


def main() -> None:
    spec = json.loads(sys.argv[1])
    if (core := spec.pop("core", None)) is not None:
        os.sched_setaffinity(0, {core})
    # The command line's author is the one who may run Python here.
    options = eval(f"dict({spec.pop('options')})", vars(fastws))
    outcome = asyncio.run(consume(spec.pop("port"), Load(**spec.pop("load")), **spec, **options))
    result = {
        "seen": [dataclasses.astuple(seen) for seen in outcome.seen],
        "told": [(count, lost.total) for count, lost in outcome.told],
        "events": [(count, type(event).__name__) for count, event in outcome.events],
        "warned_s": outcome.warned_s,
        "ended": outcome.ended,
        "stats": None if outcome.stats is None else dataclasses.asdict(outcome.stats),
        "rss": outcome.rss,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
