"""Is the peer alive, and does the feed flow: keepalive, heartbeats of messages, staleness."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from .core import FrameDecoder, PumpedDecoder
from .liveness import Heartbeat, Staleness
from .observe import kernel
from .observe.events import Stale
from .observe.pressure import PauseClock
from .observed import Observed

__all__ = ["Beats", "Silence", "Vitals"]

_LOOKS = 16
"""Looks in the time that a silence may last."""
_LOOK_MAX_S = 1.0
_LATE_S = 0.05
_BEHIND_PUMP_S = 0.005
"""After a heartbeat of a pump is due, it is looked for: the pump counts in milliseconds."""


class Silence:
    """How long nothing has come although we were reading.

    Time in which reading was paused as our queue was full doesn't count, nor a look that came late: then the event loop
    was blocked, and what has come may not have been read.

    Args:
        limit_s: Seconds that it may last.
        count: Counts what comes.
        pauses: When reading was paused.
        strict: What comes between two looks counts as having come at the first of them; else at the second.

    Attributes:
        seconds: How long it lasts.
        before_s: How long it had lasted when something came.
        blind_ns: ``time.monotonic_ns()`` of the last look before which we weren't reading all the time.
    """

    def __init__(self, limit_s: float, count: Callable[[], int], pauses: PauseClock, *, strict: bool = False) -> None:
        self._limit_s = limit_s
        self._count = count
        self._pauses = pauses
        self._strict = strict
        self._counted = count()
        self._paused_s = pauses.read_s()[0]
        self._looked_at = time.monotonic()
        self.seconds = 0.0
        self.before_s = 0.0
        self.blind_ns = time.monotonic_ns()

    @property
    def next_look_s(self) -> float:
        """Seconds until it should be looked at again."""
        step = min(self._limit_s / _LOOKS, _LOOK_MAX_S)
        left = self._limit_s - self.seconds
        return max(min(step, left) if left > 0.0 else step, 0.001)

    def look(self) -> bool:
        """Look again; True if it lasts too long."""
        now, paused_s, counted = time.monotonic(), self._pauses.read_s()[0], self._count()
        elapsed, asked = now - self._looked_at, self.next_look_s
        late = elapsed > 2 * asked + _LATE_S
        paused = paused_s - self._paused_s
        if late or paused:
            self.blind_ns = time.monotonic_ns()
        if counted != self._counted:
            self.before_s = self.seconds
            self.seconds = min(elapsed, asked) if self._strict else 0.0
        elif not late:
            self.seconds += max(0.0, elapsed - paused)
        self._counted, self._paused_s, self._looked_at = counted, paused_s, now
        return self.seconds >= self._limit_s


class Beats:
    """Heartbeats that the event loop sends.

    Args:
        every_s: Seconds between two.
        count: Counts what may be an answer.
        send: Sends one; False if it can't be sent now.
    """

    def __init__(self, every_s: float, count: Callable[[], int], send: Callable[[], bool]) -> None:
        self._every_ns = every_s * 1e9
        self._count = count
        self._send = send
        self._due_ns = time.monotonic_ns() + self._every_ns
        self._before = self._unanswered_ns = self._last_ns = 0

    def __call__(self) -> tuple[int, int]:
        """Send one if it is due; then as `PumpedDecoder.beats`."""
        now_ns, counted = time.monotonic_ns(), self._count()
        if counted != self._before:
            self._unanswered_ns = 0
        if now_ns >= self._due_ns and self._send():
            self._due_ns = now_ns + self._every_ns
            self._last_ns = now_ns
            if not self._unanswered_ns:
                self._before, self._unanswered_ns = counted, now_ns
        return self._unanswered_ns, self._last_ns


class Vitals(Observed):
    """The part of `Connection` that tells whether it is alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._vital_tasks: list[asyncio.Task[None]] = []

    def _start_vitals(self, decoder: FrameDecoder) -> None:
        heartbeat, staleness = self._options.heartbeat, self._options.staleness
        if heartbeat is not None:
            self._vital_tasks.append(self.loop.create_task(self._beat(heartbeat, decoder)))
        if staleness is not None:
            self._vital_tasks.append(self.loop.create_task(self._await_silence(staleness, decoder)))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for task in self._vital_tasks:
            task.cancel()
        # Break reference cycles, to allow immediate garbage collection.
        self._vital_tasks.clear()

    # Pings

    async def keepalive(self) -> None:
        """Send a ping and wait for its pong at regular intervals, as ``websockets`` does.

        The peer isn't blamed while we are the ones who don't read, and any byte from it is a sign of life. A dead peer
        is found within ``ping_interval + ping_timeout``, also while it doesn't take what we send.
        """
        decoder = self._decoder
        if decoder is None or self.ping_timeout is None:
            await super().keepalive()
            return
        assert self.ping_interval is not None
        latency = 0.0
        try:
            while True:
                await asyncio.sleep(self.ping_interval - latency)
                silence = Silence(self.ping_timeout, lambda: decoder.bytes_received, self._pauses, strict=True)
                ping = self.loop.create_task(self.ping())
                try:
                    await self._while_alive(ping, silence)
                    pong_received = await ping
                    if self.debug:
                        self.logger.debug("% sent keepalive ping")
                    await self._while_alive(pong_received, silence)
                    latency = await pong_received
                    if self.debug:
                        self.logger.debug("% received keepalive pong")
                except TimeoutError:
                    if self.debug:
                        self.logger.debug("- timed out waiting for keepalive pong")
                    async with self.send_context():
                        self.protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
                    raise AssertionError(
                        "send_context() should wait for connection_lost(), which cancels keepalive()"
                    ) from None
                finally:
                    ping.cancel()
        except Exception:
            self.logger.error("keepalive ping failed", exc_info=True)

    async def _while_alive(self, waited: Any, silence: Silence) -> None:
        """Wait for a future; TimeoutError if the peer is silent for too long."""
        while not waited.done():
            await asyncio.wait((waited,), timeout=silence.next_look_s)
            # What waits in the kernel is a sign of life, too.
            if not waited.done() and silence.look() and not kernel.backlog_bytes(self._descriptor):
                raise TimeoutError

    # Heartbeats

    async def _beat(self, heartbeat: Heartbeat, decoder: FrameDecoder) -> None:
        """Send heartbeats, unless a pump does so, and see that they are answered."""
        timeout = heartbeat.every if heartbeat.timeout is None else heartbeat.timeout
        beats = self._beats_of(heartbeat, decoder)
        every = heartbeat.every + (_BEHIND_PUMP_S if isinstance(decoder, PumpedDecoder) else 0.0)
        due = time.monotonic() + every
        awaited, silence = 0, None
        while True:
            left = due - time.monotonic()
            # One that has to wait, or a pump that is late, is looked at again.
            wait = left if left > 0.0 else max(0.001, min(heartbeat.every / _LOOKS, _LOOK_MAX_S))
            await asyncio.sleep(wait if silence is None else min(wait, silence.next_look_s))
            unanswered, last = beats()
            due = last / 1e9 + every if last else due
            if unanswered != awaited:
                awaited = unanswered
                # Its end is seen above.
                silence = Silence(timeout, lambda: 0, self._pauses) if unanswered else None
            elif silence is not None and silence.look() and not kernel.backlog_bytes(self._descriptor):
                await self._fail_heartbeat(timeout)
                return

    def _beats_of(self, heartbeat: Heartbeat, decoder: FrameDecoder) -> Callable[[], tuple[int, int]]:
        """A function that does as `PumpedDecoder.beats`."""
        if isinstance(decoder, PumpedDecoder):
            return lambda: decoder.beats
        expects = heartbeat.expect is not None
        return Beats(
            heartbeat.every,
            lambda: self._heard if expects else decoder.messages_received,
            lambda: self._send_beat(heartbeat.send),
        )

    def _send_beat(self, text: str) -> bool:
        # However many are due between the fragments of a message, one is enough afterwards.
        if self.send_in_progress is not None:
            return False
        self._send_now(text)
        return True

    async def _fail_heartbeat(self, waited_s: float) -> None:
        if self.protocol.state is not OPEN:
            # The closing handshake has a timeout of its own.
            return
        reason = f"heartbeat timeout: no answer within {waited_s:g} s"
        self.logger.error("%s", reason)
        with contextlib.suppress(ConnectionClosed):
            async with self.send_context():
                self.protocol.fail(CloseCode.INTERNAL_ERROR, reason)

    # Staleness

    async def _await_silence(self, staleness: Staleness, decoder: FrameDecoder) -> None:
        silence = Silence(staleness.seconds, lambda: decoder.messages_received, self._pauses)
        limit_ns = int(staleness.seconds * 1e9)
        stale = False
        stale_keys: dict[str, int] = {}
        while True:
            await asyncio.sleep(silence.next_look_s)
            if silence.look() != stale:
                stale = not stale
                if stale:
                    self._emit(Stale(None, silence.seconds))
                else:
                    self._emit(Stale(None, silence.before_s, "cleared"))
            if staleness.key is None:
                continue
            now_ns = time.monotonic_ns()
            for key, seen_ns in decoder.last_seen().items():
                if key in stale_keys:
                    if seen_ns != stale_keys[key]:
                        self._emit(Stale(key, (seen_ns - stale_keys.pop(key)) / 1e9, "cleared"))
                elif now_ns - max(seen_ns, silence.blind_ns) >= limit_ns:
                    stale_keys[key] = seen_ns
                    self._emit(Stale(key, (now_ns - seen_ns) / 1e9))
