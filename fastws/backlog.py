"""Messages taken from a connection that wait for a worker, in order for each key."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from .overflow import KEY_SEPARATOR, Between, Key

__all__ = ["Backlog", "Job", "key_function"]

Messages = Sequence[str | bytes]
KeyFunction = Callable[[str | bytes], Hashable]


class Job(NamedTuple):
    """What a worker gets at once.

    Attributes:
        messages: In the order they came, for each key.
        keys: Keys that nobody else works on meanwhile.
    """

    messages: Messages
    keys: tuple[Hashable, ...] = ()


class Backlog:
    """Bounded: `room` waits while too many messages are under way, `add` brings them; workers call `get` and `done`.

    Args:
        key: Key of a message; None keeps no order, unless there is only one worker.
        max_pending: Most messages under way, waiting or in work.
        workers: Workers; the more wait, the smaller a job.
        max_job: Most messages in a job.
    """

    def __init__(self, key: KeyFunction | None, max_pending: int, workers: int, max_job: int) -> None:
        self.pending = 0
        self._key = key
        self._max_pending = max_pending
        # Where taking goes on: all workers are still busy then, and what is taken is not one message at a time.
        self._low = max_pending - max(1, (max_pending - workers) // 2)
        self._workers = workers
        self._max_job = max_job
        self._waiting = 0
        self._closed = False
        self._batches: deque[Messages] = deque()
        self._start = 0
        self._by_key: dict[Hashable, deque[str | bytes]] = {}
        self._ready: deque[Hashable] = deque()
        self._in_work: set[Hashable] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._full: asyncio.Future[None] | None = None

    async def room(self) -> int:
        """Wait until messages may be taken; how many."""
        if self.pending >= self._max_pending:
            self._full = asyncio.get_running_loop().create_future()
            try:
                await self._full
            finally:
                self._full = None
        return self._max_pending - self.pending

    def add(self, batch: Messages) -> None:
        self.pending += len(batch)
        self._waiting += len(batch)
        if self._key is None:
            self._batches.append(batch)
        else:
            for message in batch:
                key = self._key(message)
                queue = self._by_key.get(key)
                if queue is None:
                    queue = self._by_key[key] = deque()
                    if key not in self._in_work:
                        self._ready.append(key)
                queue.append(message)
        self._wake()

    def close(self) -> None:
        """Nothing more will be added."""
        self._closed = True
        self._wake()

    async def get(self) -> Job | None:
        """The next job; None when all is done."""
        while not (self._batches or self._ready):
            if self._closed and not self._waiting:
                return None
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter
        size = min(self._max_job, -(-self._waiting // self._workers))
        job = self._slice(size) if self._key is None else self._share(size)
        self._waiting -= len(job.messages)
        if self._closed and not self._waiting:
            self._wake()
        return job

    def done(self, job: Job) -> None:
        self.pending -= len(job.messages)
        for key in job.keys:
            self._in_work.discard(key)
            if key in self._by_key:
                self._ready.append(key)
        if job.keys and self._ready:
            self._wake()
        if self._full is not None and not self._full.done() and self.pending <= self._low:
            self._full.set_result(None)

    def _wake(self) -> None:
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _slice(self, size: int) -> Job:
        """Of one batch, so that no Python object is made for each message."""
        batch, start = self._batches[0], self._start
        end = start + size
        if end < len(batch):
            self._start = end
        else:
            self._batches.popleft()
            self._start = 0
        return Job([batch[start]] if size == 1 else batch[start:end])

    def _share(self, size: int) -> Job:
        messages: list[str | bytes] = []
        keys: list[Hashable] = []
        while self._ready and len(messages) < size:
            key = self._ready.popleft()
            queue = self._by_key[key]
            if len(queue) <= size - len(messages):
                messages += queue
                del self._by_key[key]
            else:
                messages += [queue.popleft() for _ in range(size - len(messages))]
            self._in_work.add(key)
            keys.append(key)
        return Job(messages, tuple(keys))


def key_function(key: Key | None) -> KeyFunction | None:
    """What finds a key in Python.

    Raises:
        ValueError: If a JSON Pointer doesn't begin with "/" (RFC 6901).
    """
    if isinstance(key, Between):
        return _between(key)
    if isinstance(key, str | tuple):
        return _pointers((key,) if isinstance(key, str) else key)
    return key


def _between(key: Between) -> KeyFunction:
    def find(message: str | bytes) -> bytes | None:
        data = message.encode() if isinstance(message, str) else message
        start = data.find(key.before)
        if start < 0:
            return None
        start += len(key.before)
        end = data.find(key.after, start)
        return None if end < 0 else data[start:end]

    return find


def _pointers(pointers: tuple[str, ...]) -> KeyFunction:
    paths = []
    for pointer in pointers:
        if not pointer.startswith("/"):
            raise ValueError(f'JSON Pointer {pointer!r} must begin with "/" (RFC 6901)')
        paths.append([part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")])
    if not paths:
        raise ValueError("a key needs at least one JSON Pointer")

    import json

    def find(message: str | bytes) -> str | None:
        try:
            # Numbers stay as they are written.
            document = json.loads(message, parse_int=_Number, parse_float=_Number)
        except (ValueError, RecursionError):
            return None
        values = []
        for path in paths:
            value = _at(document, path)
            if value is None:
                return None
            values.append(value)
        return KEY_SEPARATOR.join(values)

    return find


class _Number(str):
    __slots__ = ()


def _at(value: Any, path: list[str]) -> str | None:
    for part in path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif (
            isinstance(value, list)
            and part.isascii()
            and part.isdigit()
            and (part == "0" or part[0] != "0")
            and int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None
