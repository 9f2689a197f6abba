"""Bounded workers for the messages of a connection: coroutines on the loop, threads or processes.

Receiving stays on the loop, computing goes elsewhere, and too much work holds up the queue of the connection, where
its overflow policy decides.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from .backlog import Backlog, Job, key_function
from .overflow import Key

if TYPE_CHECKING:
    from .connection import Connection
    from .crews import Crew

__all__ = ["WorkerPool", "workers"]

Handler = Callable[[str | bytes], Any]

_MAX_PENDING = {"loop": 4, "thread": 64, "process": 64}
"""Messages under way for each worker, by default: what waits here is out of reach of the overflow policy."""
_TURN_S = 0.005
"""Time for which handlers that never suspend may hold the loop."""


def workers(
    ws: Connection,
    handler: Handler,
    key: Key | None = None,
    concurrency: int = 4,
    executor: Literal["loop", "thread", "process"] = "loop",
    max_pending: int | None = None,
) -> WorkerPool:
    """Receive from ``ws`` and hand its messages to workers::

        async with fastws.workers(ws, handler, key="/data/s", executor="process"):
            pass  # leaves when the connection has ended and all messages are handled

    Leaving the block waits for the end of the connection. The first exception of a handler ends the pool, cancels the
    block, and is raised on leaving it, with the message in a note. When the connection ends with an error, what
    was received is handled first, then `ConnectionClosedError` is raised. Cancelling waits for messages that are
    in work in threads and processes.

    Args:
        ws: The connection; nobody else may receive from it.
        handler: Called with each message: a coroutine function for "loop", a function otherwise; for "process" one
            that can be imported by name.
        key: Messages of the same key are handled in their order, never two at a time; those without a key count as
            of one key. A callable, a JSON Pointer or several, or `Between`. None keeps no order, unless ``concurrency``
            is 1.
        concurrency: Workers.
        executor: Where handlers run. Threads and processes get as many messages at once as there are.
        max_pending: Most messages under way: none are taken from ``ws`` meanwhile. The default is 4 for each worker on
            the loop and 64 for each thread or process.

    Raises:
        TypeError: If the handler doesn't fit the executor.
        ValueError: If a number or a JSON Pointer makes no sense.
    """
    if executor not in _MAX_PENDING:
        raise ValueError(f'executor is {executor!r}, must be "loop", "thread" or "process"')
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}, must be 1 or more")
    if max_pending is None:
        max_pending = _MAX_PENDING[executor] * concurrency
    if max_pending < 1:
        raise ValueError(f"max_pending is {max_pending}, must be 1 or more")
    if executor != "loop" and inspect.iscoroutinefunction(handler):
        raise TypeError(f'a coroutine function as handler needs executor="loop", not {executor!r}')
    crew: Crew | None = None
    if executor != "loop":
        from .crews import Processes, Threads

        crew = (Threads if executor == "thread" else Processes)(handler, concurrency)
    max_job = 1 if crew is None else max_pending
    return WorkerPool(ws, handler, Backlog(key_function(key), max_pending, concurrency, max_job), crew, concurrency)


class WorkerPool:
    """What `workers` gives: an asynchronous context manager.

    Attributes:
        handled: Messages that handlers have finished.
    """

    def __init__(self, ws: Connection, handler: Handler, backlog: Backlog, crew: Crew | None, concurrency: int) -> None:
        self.handled = 0
        self._ws = ws
        self._handler = handler
        self._backlog = backlog
        self._crew = crew
        self._concurrency = concurrency
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._closed: ConnectionClosedError | None = None
        self._turn_ends = 0.0

    @property
    def pending(self) -> int:
        """Messages that wait or are in work."""
        return self._backlog.pending

    async def join(self) -> None:
        """Wait until the connection has ended and all its messages are handled."""
        await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        if self._tasks:
            raise RuntimeError("a pool of workers can't be entered twice")
        try:
            if self._crew is not None:
                await self._crew.start()
            await self._group.__aenter__()
        except BaseException:
            await self._shut_down()
            raise
        # A second job for each thread or process waits at its door while the first is in work.
        work, count = (self._on_loop, 1) if self._crew is None else (self._elsewhere, 2)
        coroutines = [self._receive(), *(work() for _ in range(count * self._concurrency))]
        self._tasks = [self._group.create_task(self._guard(coroutine)) for coroutine in coroutines]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup:
            if exc is None or isinstance(exc, asyncio.CancelledError):
                assert self._failure is not None
            elif self._failure is not None:
                raise
            else:
                return
        finally:
            await self._shut_down()
        error, self._failure = self._failure or self._closed, None
        if error is not None:
            context = error.__context__
            try:
                raise error
            finally:
                # Not the cancellation of the block.
                error.__context__ = context
                del error, context

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody has cancelled us: a handler awaited what was cancelled. As it is, it would end one worker silently.
            error = RuntimeError("a handler was cancelled from within")
            for note in getattr(exc, "__notes__", ()):
                error.add_note(note)
            self._failure = self._failure or error
            raise error from exc
        except BaseException as exc:
            self._failure = self._failure or exc
            raise

    async def _receive(self) -> None:
        try:
            while True:
                room = await self._backlog.room()
                self._backlog.add(await self._ws.recv_batch(room))
        except ConnectionClosedOK:
            pass
        except ConnectionClosedError as exc:
            self._closed = exc
        self._backlog.close()

    async def _on_loop(self) -> None:
        while (job := await self._backlog.get()) is not None:
            (message,) = job.messages
            try:
                await self._handler(message)
            except BaseException as exc:
                _add_note(exc, message)
                raise
            self._finish(job)
            if time.monotonic() >= self._turn_ends:
                await asyncio.sleep(0)
                self._turn_ends = time.monotonic() + _TURN_S

    async def _elsewhere(self) -> None:
        assert self._crew is not None
        while (job := await self._backlog.get()) is not None:
            handled, error = await asyncio.wrap_future(self._crew.submit(job.messages))
            if error is not None:
                self.handled += handled
                _add_note(error, job.messages[handled])
                raise error
            if handled < len(job.messages):
                # Another one has failed; its exception, which is on its way, ends us.
                self.handled += handled
                await asyncio.get_running_loop().create_future()
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self.handled += len(job.messages)
        self._backlog.done(job)

    async def _shut_down(self) -> None:
        """Wait for threads and processes to end, however often we are cancelled."""
        if self._crew is None:
            return
        ending = asyncio.ensure_future(self._crew.shut_down())
        cancelled = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as exc:
                cancelled = exc
        ending.result()
        if cancelled is not None:
            raise cancelled


def _add_note(exc: BaseException, message: str | bytes) -> None:
    text = repr(message)
    exc.add_note(f"while handling the message {text if len(text) <= 500 else text[:500] + '...'}")
