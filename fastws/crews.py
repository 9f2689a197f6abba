"""Threads and processes that work for `fastws.workers`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Crew", "Processes", "Threads"]

Handler = Callable[[str | bytes], Any]
Result = tuple[int, Exception | None]
"""(messages handled, what the handler raised for the next)."""
T = TypeVar("T")


class Crew(Protocol):
    """Whoever runs handlers elsewhere."""

    async def start(self) -> None: ...
    def submit(self, messages: Sequence[str | bytes]) -> concurrent.futures.Future[Result]: ...
    async def shut_down(self) -> None:
        """Wait until messages in work are handled and nobody is left."""


class _Flag(Protocol):
    def is_set(self) -> bool: ...
    def set(self) -> None: ...


class _SharedFlag:
    """A byte that processes share: reading it costs no system call."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def is_set(self) -> bool:
        return bool(self.value.value)

    def set(self) -> None:
        self.value.value = 1


def _work(handler: Handler, messages: Sequence[str | bytes], stop: _Flag) -> Result:
    """Handle one by one; after a failure, nobody begins another message."""
    for index, message in enumerate(messages):
        if stop.is_set():
            return index, None
        try:
            handler(message)
        except Exception as exc:
            stop.set()
            return index, exc
    return len(messages), None


class Threads:
    def __init__(self, handler: Handler, concurrency: int) -> None:
        self._stop = threading.Event()
        self._handler = handler
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="fastws.workers")

    async def start(self) -> None:
        pass

    def submit(self, messages: Sequence[str | bytes]) -> concurrent.futures.Future[Result]:
        return self._pool.submit(contextvars.copy_context().run, _work, self._handler, messages, self._stop)

    async def shut_down(self) -> None:
        self._stop.set()
        await _in_thread(functools.partial(self._pool.shutdown, cancel_futures=True))


class Processes:
    def __init__(self, handler: Handler, concurrency: int) -> None:
        try:
            pickled = pickle.dumps(handler)
        except Exception as exc:
            raise TypeError(f'executor="process" needs a handler that can be imported by name: {exc}') from exc
        # A fork of a process with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        value = context.RawValue("b", 0)
        self._stop = _SharedFlag(value)
        self._pool = concurrent.futures.ProcessPoolExecutor(
            concurrency, mp_context=context, initializer=_begin_process, initargs=(value, pickled)
        )

    async def start(self) -> None:
        """Start the processes, off the loop as it takes a while; fails if they can't load the handler."""
        started = await _in_thread(functools.partial(self._pool.submit, _load_handler))
        await asyncio.wrap_future(started)

    def submit(self, messages: Sequence[str | bytes]) -> concurrent.futures.Future[Result]:
        return self._pool.submit(_work_in_process, messages)

    async def shut_down(self) -> None:
        self._stop.set()
        await _in_thread(functools.partial(self._pool.shutdown, cancel_futures=True))


_process: tuple[_Flag, bytes] | None = None


def _begin_process(value: Any, pickled: bytes) -> None:
    global _process
    # Ctrl-C is for the parent, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _process = _SharedFlag(value), pickled


@functools.cache
def _handler_here() -> Handler:
    assert _process is not None
    handler: Handler = pickle.loads(_process[1])
    return handler


def _load_handler() -> None:
    _handler_here()


def _work_in_process(messages: Sequence[str | bytes]) -> Result:
    assert _process is not None
    handled, error = _work(_handler_here(), messages, _process[0])
    if error is not None:
        text = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__qualname__}: {error}")
        error.add_note(f"in a worker process:\n{text}")
    return handled, error


async def _in_thread(function: Callable[[], T]) -> T:
    """Run in a thread that ends afterwards, unlike those of the loop's default executor."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as exc:
            future.set_exception(exc)

    future.set_running_or_notify_cancel()
    thread = threading.Thread(target=run, name="fastws.workers", daemon=True)
    thread.start()
    result = await asyncio.wrap_future(future)
    thread.join()
    return result
