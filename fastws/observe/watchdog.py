"""Who is stuck, where and since when: told while it is stuck, by a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from .stats import Stats
from .stuck import QueueState, StuckReport, Where, where_task, where_thread, why_blocked, why_stuck

__all__ = ["QueueState", "StuckReport", "Watchdog"]

_JOIN_S = 1.0
"""Longest wait for the thread at the end: a callback of the user may be stuck itself."""


class Watchdog:
    """Reports a blocked event loop, and consumers that are stuck in their handlers, while they are::

        async with connect(uri) as ws, Watchdog() as watchdog:
            watchdog.watch(ws)

    A report is logged as a warning and given to ``on_report``: one when something is stuck, one when it is over. Cost:
    ten callbacks and ten wake-ups of a thread each second; see benchmarks/watchdog.py.

    While C code holds the GIL no thread can run; the report comes as soon as it is released.

    Args:
        loop: The loop to watch; by default the running one.
        blocked_after: Seconds without a turn of the loop that count as blocked.
        consumer_after: Seconds for which messages wait and none is taken that count as stuck. Time in which the loop
            is blocked doesn't count.
        interval: Seconds between two looks.
        on_report: Called with each report, in the thread of the watchdog.
        logger: Where to log; by default the logger "fastws.watchdog".

    Raises:
        ValueError: If a time isn't positive.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        blocked_after: float = 0.5,
        consumer_after: float = 1.0,
        interval: float = 0.1,
        on_report: Callable[[StuckReport], object] | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        if min(blocked_after, consumer_after, interval) <= 0.0:
            raise ValueError("blocked_after, consumer_after and interval must be positive")
        self._loop = loop
        self._blocked_after = blocked_after
        self._consumer_after = consumer_after
        self._interval = interval
        self._on_report = on_report
        self._logger = logging.getLogger("fastws.watchdog") if logger is None else logger
        self._watched: dict[int, _Watched] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        # Of the loop: written in its thread.
        self._handle: asyncio.TimerHandle | None = None
        self._beat: _Beat | None = None
        self._late: deque[tuple[float, float]] = deque()
        # Of the watchdog's thread.
        self._blocked: tuple[float, StuckReport] | None = None
        self._at_rest = False

    def watch(self, ws: Any, name: str | None = None, *, peer_timeout: float | None = None) -> None:
        """Watch the consumer of a connection, until it is closed.

        The consumer is the task that last received, or, until one has, the task that calls this.

        Args:
            ws: The connection; it is referenced weakly.
            name: What reports call it; by default its peer's address.
            peer_timeout: Seconds for which the peer waits for a pong, if known; by default as long as we do.
        """
        if name is None:
            address = getattr(ws, "remote_address", None)
            name = ":".join(str(part) for part in address[:2]) if isinstance(address, tuple) else "connection"
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        self._watched[id(ws)] = _Watched(
            weakref.ref(ws), name, peer_timeout, None if task is None else weakref.ref(task)
        )

    def unwatch(self, ws: Any) -> None:
        """Don't watch a connection any more; without effect if it isn't watched."""
        self._watched.pop(id(ws), None)

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a watchdog can't be started twice")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon_threadsafe(self._tick)
        self._thread = threading.Thread(target=self._run, name="fastws.watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._thread is not None
        assert self._loop is not None
        self._ended.set()
        if self._handle is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._handle.cancel)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    # In the loop's thread

    def _tick(self) -> None:
        """The heartbeat of the loop, and a look at the connections."""
        if self._ended.is_set():
            return
        assert self._loop is not None
        now = time.monotonic()
        late = 0.0
        if self._beat is not None and not self._at_rest:
            late = now - self._beat.due
            if late > self._blocked_after:
                self._late.append((self._beat.due, now))
        self._at_rest = False
        for watched in list(self._watched.values()):
            try:
                watched.look(now, late if late > self._interval else 0.0)
            except Exception:
                watched.gone = True
                self._logger.exception("watchdog: %s can't be watched", watched.name)
        self._beat = _Beat(now, now + self._interval, threading.get_ident(), _thread_clock(), time.thread_time())
        self._handle = self._loop.call_later(self._interval, self._tick)

    # In the watchdog's thread

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                assert self._loop is not None
                if self._loop.is_closed():
                    return
                self._check(time.monotonic())
            except Exception:
                if sys.is_finalizing():
                    return
                self._logger.exception("watchdog: a look failed")

    def _check(self, now: float) -> None:
        assert self._loop is not None
        while self._late:
            due, ended = self._late.popleft()
            if self._blocked is None or self._blocked[0] != due:
                self._report_loop(due, ended, Where(), None)
            self._loop_is_free(ended)
        beat = self._beat
        if beat is None:
            return
        if not self._loop.is_running():
            self._at_rest = True
            if self._blocked is not None:
                self._loop_is_free(now)
        elif now - beat.due > self._blocked_after:
            if self._blocked is None:
                where = where_thread(beat.thread_id, self._loop)
                # Without a GIL, the look has waited for a thread that couldn't be stopped.
                now = time.monotonic()
                self._report_loop(beat.due, now, where, beat.busy(now))
        else:
            for key, watched in list(self._watched.items()):
                self._check_consumer(watched, beat.at, now)
                if watched.gone:
                    self._watched.pop(key, None)

    def _report_loop(self, since: float, now: float, where: Where, busy: float | None) -> None:
        stuck_s = now - since
        queues = tuple(w.queue(stuck_s) for w in list(self._watched.values()) if not w.gone)
        report = _report("loop", now, stuck_s, where, queues, why_blocked(where, busy))
        self._blocked = since, report
        self._tell(report)

    def _loop_is_free(self, now: float) -> None:
        assert self._blocked is not None
        (since, report), self._blocked = self._blocked, None
        queues = tuple(w.queue(None) for w in list(self._watched.values()) if not w.gone)
        self._tell(replace(report, phase="over", stuck_s=now - since, queues=queues))

    def _check_consumer(self, watched: _Watched, beat_at: float, now: float) -> None:
        """Until its last beat, the loop would have let the consumer come; what came after isn't known yet."""
        since = watched.since
        if watched.reported is not None:
            began, report = watched.reported
            if since is None or since != began or watched.gone:
                watched.reported = None
                queues = (watched.queue(None),)
                stuck_s = max(watched.moved, began) - began
                self._tell(replace(report, phase="over", stuck_s=stuck_s, queues=queues))
        elif since is not None and not watched.gone and beat_at - since > self._consumer_after:
            task = watched.consumer()
            where = Where() if task is None else where_task(task)
            queue = watched.queue(watched.paused_s(now))
            report = _report("consumer", now, now - since, where, (queue,), why_stuck(where))
            watched.reported = since, report
            self._tell(report)

    def _tell(self, report: StuckReport) -> None:
        # The callback goes first: whoever is stuck in logging holds its lock.
        if self._on_report is not None:
            try:
                self._on_report(report)
            except Exception:
                self._logger.exception("watchdog: on_report failed")
        self._logger.warning("%s", report)


@dataclass(frozen=True, slots=True)
class _Beat:
    """What the loop's thread left at its last beat; the next one is due at ``due``."""

    at: float
    due: float
    thread_id: int
    clock: int | None
    cpu_s: float

    def busy(self, now: float) -> float | None:
        """Share of the time since then in which the thread was on a processor."""
        if self.clock is None:
            return None
        try:
            return (time.clock_gettime(self.clock) - self.cpu_s) / max(now - self.due, 1e-6)
        except OSError:
            return None


class _Watched:
    """A connection: ``look`` runs in the loop's thread, the rest in the watchdog's.

    Attributes:
        since: Since when messages wait and none was taken.
        moved: When it was last otherwise.
        gone: Whether it is closed or deleted.
        reported: (since, the report of it), while the consumer is stuck.
    """

    def __init__(
        self,
        ref: weakref.ref[Any],
        name: str,
        peer_timeout: float | None,
        task: weakref.ref[asyncio.Task[Any]] | None,
    ) -> None:
        self.ref = ref
        self.name = name
        self.since: float | None = None
        self.moved = 0.0
        self.gone = False
        self.reported: tuple[float, StuckReport] | None = None
        self._peer_timeout = peer_timeout
        self._task = task
        self._figures = _Figures(0, 0, False)
        self._paused_since: float | None = None

    def look(self, now: float, blocked_s: float) -> None:
        ws = self.ref()
        if ws is None or getattr(getattr(ws, "state", None), "name", None) == "CLOSED":
            self.moved, self.since, self.gone = now, None, True
            return
        before, self._figures = self._figures, _figures(ws)
        if not self._figures.paused:
            self._paused_since = None
        elif self._paused_since is None:
            self._paused_since = now
        if not self._figures.queued_messages:
            self.moved, self.since = now, None
        elif self.since is None or self._figures.delivered != before.delivered:
            self.moved = self.since = now
        elif blocked_s and self.reported is None:
            # The consumer couldn't come.
            self.since += blocked_s

    def paused_s(self, now: float) -> float | None:
        paused_since = self._paused_since
        return None if paused_since is None else now - paused_since

    def consumer(self) -> asyncio.Task[Any] | None:
        ref = getattr(self.ref(), "_consumer", None) or self._task
        task: asyncio.Task[Any] | None = None if ref is None else ref()
        return None if task is None or task.done() else task

    def queue(self, unread_s: float | None) -> QueueState:
        """The queue now; for ``unread_s`` no ping was read."""
        ws = self.ref()
        stats = Stats(queued_messages=self._figures.queued_messages, paused=self._figures.paused)
        # Taken in another thread than its own, they may fail; then the last ones must do.
        with contextlib.suppress(Exception):
            stats = ws.stats if ws is not None else stats
        limit = self._peer_timeout if self._peer_timeout is not None else getattr(ws, "ping_timeout", None)
        gives_up = None if limit is None or unread_s is None else max(0.0, limit - unread_s)
        return QueueState(self.name, stats.queued_messages, stats.queued_bytes, stats.oldest_s, stats.paused, gives_up)


class _Figures(NamedTuple):
    delivered: int
    queued_messages: int
    paused: bool


def _figures(ws: Any) -> _Figures:
    """What each look needs; ``ws.stats`` costs twenty times as much."""
    decoder = getattr(ws, "_decoder", None)
    if decoder is None:
        stats = ws.stats
        return _Figures(stats.delivered, stats.queued_messages, stats.paused)
    return _Figures(decoder.delivered, decoder.queued_messages, decoder.blocked)


def _report(
    what: Literal["loop", "consumer"],
    now: float,
    stuck_s: float,
    where: Where,
    queues: tuple[QueueState, ...],
    why: tuple[str, str],
) -> StuckReport:
    since = time.time() - (time.monotonic() - now) - stuck_s
    place = where.file, where.line, where.function, where.stack, where.task
    return StuckReport(what, "stuck", since, stuck_s, *place, queues, *why)


def _thread_clock() -> int | None:
    """The clock of the processor time of this thread, readable in others."""
    if sys.platform == "win32" or not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())
