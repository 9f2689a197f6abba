"""Lower the subscription while the consumer is slow, raise it again after calm."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, Self, TypeAlias

from websockets.exceptions import ConnectionClosed

from .events import Closed, Event, SlowConsumer
from .stats import Stats

__all__ = ["Level", "SubscriptionGovernor"]

Level: TypeAlias = str | bytes | Sequence[str | bytes]
"""What the venue must be sent to be at a level: one message or several, whether it comes from above or from below."""


class _Connection(Protocol):
    @property
    def stats(self) -> Stats: ...
    @property
    def logger(self) -> Any: ...
    def events(self) -> AsyncIterator[Event]: ...
    async def send(self, message: Any) -> None: ...


class SubscriptionGovernor:
    """Goes down a level when an episode of a slow consumer starts, and up again after calm.

    It follows the `SlowConsumer` events of the connection, so ``thresholds=`` says what is slow::

        async with SubscriptionGovernor(ws, [full_book, top_of_book, trades_only], max_messages_per_s=5):
            async for message in ws:
                ...

    Args:
        connection: The connection.
        levels: From the fullest subscription to the least; `Level` says what each is.
        subscribe: Whether to send the first level when it begins; else that was done already.
        down_after: Seconds after which it goes down once more if an episode goes on.
        up_after: Seconds of calm after which it goes up.
        cooldown: Seconds between two changes, at least.
        max_messages_per_s: What the venue allows in any second. All that the connection sends counts, by whomever,
            pongs too; but only the governor waits. None is no limit.

    Attributes:
        level: Where it is; 0 is the fullest.

    Raises:
        ValueError: If there are fewer than two levels, a time is negative, or the limit isn't positive.
    """

    def __init__(
        self,
        connection: _Connection,
        levels: Sequence[Level],
        *,
        subscribe: bool = True,
        down_after: float = 5.0,
        up_after: float = 30.0,
        cooldown: float = 1.0,
        max_messages_per_s: float | None = None,
    ) -> None:
        if len(levels) < 2:
            raise ValueError(f"there are {len(levels)} levels, must be 2 or more")
        for name, seconds in (("down_after", down_after), ("up_after", up_after), ("cooldown", cooldown)):
            if seconds < 0:
                raise ValueError(f"{name} is {seconds}, must be positive or zero")
        self._connection = connection
        self._levels = [(level,) if isinstance(level, str | bytes) else tuple(level) for level in levels]
        self._subscribe = subscribe
        self._down_after = down_after
        self._up_after = up_after
        self._cooldown = cooldown
        self._budget = None if max_messages_per_s is None else _Budget(connection, max_messages_per_s)
        self._task: asyncio.Task[None] | None = None
        self.level = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self.run())
        return self

    async def __aexit__(self, *args: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def run(self) -> None:
        """Govern until the connection is closed; for a task of your own, instead of ``async with``."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        listening = asyncio.get_running_loop().create_task(self._listen(self._connection.events(), events))
        try:
            if self._subscribe:
                await self._go_to(0)
            await self._govern(events)
        except ConnectionClosed:
            pass
        finally:
            listening.cancel()

    @staticmethod
    async def _listen(events: AsyncIterator[Event], queue: asyncio.Queue[Event | None]) -> None:
        async for event in events:
            if isinstance(event, SlowConsumer | Closed):
                queue.put_nowait(event)
        queue.put_nowait(None)

    async def _govern(self, events: asyncio.Queue[Event | None]) -> None:
        changed_at = time.monotonic() - self._cooldown
        episodes = 0  # Several thresholds may tell of the same.
        wanted_at: float | None = None  # When the next change is due; None if none is.
        while True:
            timeout = None
            if wanted_at is not None:
                timeout = max(0.0, max(wanted_at, changed_at + self._cooldown) - time.monotonic())
            try:
                async with asyncio.timeout(timeout):
                    event = await events.get()
            except TimeoutError:
                await self._go_to(self.level + 1 if episodes else self.level - 1)
                changed_at = time.monotonic()
                wanted_at = self._next_change(changed_at + (self._down_after if episodes else self._up_after), episodes)
                continue
            if not isinstance(event, SlowConsumer):
                return
            before = episodes
            episodes = max(0, episodes + (1 if event.phase == "started" else -1))
            if bool(episodes) != bool(before):
                # Down at once, but for the cool-down; up after calm.
                wanted_at = self._next_change(time.monotonic() + (0.0 if episodes else self._up_after), episodes)

    def _next_change(self, due: float, episodes: int) -> float | None:
        possible = self.level + 1 < len(self._levels) if episodes else self.level > 0
        return due if possible else None

    async def _go_to(self, level: int) -> None:
        if level != self.level:
            self._connection.logger.info("subscription level %d -> %d of %d", self.level, level, len(self._levels) - 1)
        self.level = level
        for message in self._levels[level]:
            if self._budget is not None:
                await self._budget.wait()
            await self._connection.send(message)
            if self._budget is not None:
                self._budget.look()


class _Budget:
    """Counts what a connection sends, so that no second has more than so many messages.

    What others have sent since the last look counts as sent just now: rather too slow than too fast.
    """

    def __init__(self, connection: _Connection, max_messages_per_s: float) -> None:
        if not max_messages_per_s > 0:
            raise ValueError(f"max_messages_per_s is {max_messages_per_s}, must be positive")
        self._connection = connection
        # Less than one in a second is one in a longer time.
        self._most = max(1, int(max_messages_per_s))
        self._window_s = self._most / max_messages_per_s
        self._seen = 0
        self._times: deque[float] = deque(maxlen=self._most)

    def look(self) -> None:
        """Count what was sent since the last look."""
        stats = self._connection.stats
        sent = stats.messages_out + stats.controls_out
        self._times.extend([time.monotonic()] * min(sent - self._seen, self._most))
        self._seen = sent

    async def wait(self) -> None:
        """Wait until one more message may be sent; the caller sends it at once."""
        while True:
            self.look()
            now = time.monotonic()
            while self._times and now - self._times[0] >= self._window_s:
                self._times.popleft()
            if len(self._times) < self._most:
                return
            await asyncio.sleep(self._times[0] + self._window_s - now)
