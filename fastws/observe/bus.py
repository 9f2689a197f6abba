"""From where an event happens to whoever wants to know."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

from .events import Event, EventsLost

__all__ = ["BlockingEventIterator", "EventBus", "EventIterator"]

_OPENING_MAX = 64
"""Most events that are kept for who iterates first."""


class _Events:
    """The events that wait for one who iterates.

    Args:
        max_events: Most events that wait; older ones are dropped, and an `EventsLost` says how many.
        ended: Whether the connection is closed already.
    """

    def __init__(self, max_events: int, ended: bool) -> None:
        if max_events < 1:
            raise ValueError(f"max_events is {max_events}, must be 1 or more")
        self._events: deque[Event] = deque(maxlen=max_events)
        self._dropped = 0
        self._ended = ended

    def begin(self, events: Iterable[Event], dropped: int) -> None:
        """Called by the bus: events of before, and how many came before those."""
        self._dropped = dropped
        for event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Called by the bus."""
        if len(self._events) == self._events.maxlen:
            self._dropped += 1
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """What waits is still given."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        raise NotImplementedError

    def _take(self) -> Event:
        """The next one, when there is one."""
        if self._dropped:
            lost, self._dropped = EventsLost(self._dropped), 0
            return lost
        return self._events.popleft()


class EventIterator(_Events):
    """``async for event in connection.events()``: ends when the connection is closed."""

    def __init__(self, max_events: int, ended: bool) -> None:
        super().__init__(max_events, ended)
        self._waiters: list[asyncio.Future[None]] = []

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._take()


class BlockingEventIterator(_Events):
    """The same for threads other than that of the bus: ``for event in connection.events()`` of `fastws.sync`.

    Args:
        max_events: Most events that wait; older ones are dropped, and an `EventsLost` says how many.
        ended: Whether the connection is closed already.
        timeout: Seconds to wait for an event before `TimeoutError`, after which the iteration may go on; None is no
            limit.

    Raises:
        ValueError: If ``max_events`` is less than 1, or ``timeout`` negative or NaN.
    """

    def __init__(self, max_events: int, ended: bool, timeout: float | None = None) -> None:
        super().__init__(max_events, ended)
        if timeout is not None and not timeout >= 0.0:
            raise ValueError(f"timeout is {timeout}, must be positive or zero")
        self._timeout = timeout
        self._process = os.getpid()
        # Reentrant: the garbage collector may end a connection in the middle of anything.
        self._changed = threading.Condition(threading.RLock())

    def put(self, event: Event) -> None:
        """Called by the bus."""
        with self._changed:
            super().put(event)

    def end(self) -> None:
        """What waits is still given."""
        with self._changed:
            super().end()

    def _wake(self) -> None:
        self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._process != os.getpid():
            raise RuntimeError("the connection belongs to the parent process: it doesn't survive a fork")
        with self._changed:
            timeout = None if self._timeout is None else min(self._timeout, threading.TIMEOUT_MAX)
            if not self._changed.wait_for(lambda: self._events or self._ended, timeout):
                raise TimeoutError(f"no event in {self._timeout:g} s")
            if not self._events:
                raise StopIteration
            return self._take()


_Iterator = TypeVar("_Iterator", bound=_Events)


class EventBus:
    """Gives events to a callback and to iterators, at once.

    Args:
        callback: Called with (connection, event); None if nobody wants it.
    """

    def __init__(self, callback: Callable[[Any, Event], object] | None) -> None:
        self._callback = callback
        # Until somebody iterates, and an event comes after that.
        self._opening: deque[Event] | None = deque(maxlen=_OPENING_MAX)
        self._opening_dropped = 0
        self._iterated = False
        self._iterators: weakref.WeakSet[_Events] = weakref.WeakSet()
        self._ended = False

    def subscribe(self, make: Callable[[bool], _Iterator]) -> _Iterator:
        """Give all events from now on, as long as the iterator lives; at first also those since the beginning.

        Args:
            make: Makes an iterator; is told whether the connection is closed already.
        """
        iterator = make(self._ended)
        if self._opening is not None:
            iterator.begin(self._opening, self._opening_dropped)
        self._iterated = True
        self._iterators.add(iterator)
        return iterator

    def emit(self, connection: Any, event: Event) -> None:
        """Tell everybody. What the callback raises is logged: it must not break the connection."""
        if self._ended:
            return
        if self._iterated:
            self._opening = None
        elif self._opening is not None:
            self._opening_dropped += len(self._opening) == _OPENING_MAX
            self._opening.append(event)
        for iterator in list(self._iterators):
            iterator.put(event)
        if self._callback is not None:
            try:
                self._callback(connection, event)
            except Exception:
                connection.logger.error("on_event failed for %s", type(event).__name__, exc_info=True)

    def end(self) -> None:
        """Nothing will come any more."""
        self._ended = True
        for iterator in list(self._iterators):
            iterator.end()
