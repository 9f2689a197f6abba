"""The event loop that keeps connections alive for threads that have none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background:
    """An event loop in a daemon thread: one for a process, while there is a connection that needs it.

    Attributes:
        loop: The event loop.
    """

    # Reentrant: the garbage collector may end connections in the middle of anything.
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _current: ClassVar[Background | None] = None

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._process = os.getpid()
        self._users = 0
        self._over = False
        self._thread = threading.Thread(target=self._run, name="fastws-sync", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    @classmethod
    def enter(cls) -> Background:
        """Begin to use it; it runs until `leave`.

        Raises:
            RuntimeError: If no thread can be started.
        """
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            cls._current._users += 1
            return cls._current

    def leave(self) -> None:
        """The loop is needed by one less. To be called in the loop, last of all."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._over = True
                if Background._current is self:
                    Background._current = None
                self.loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._over:
                try:
                    self.loop.run_forever()
                except (KeyboardInterrupt, SystemExit) as exc:
                    # Raised by something of the user's, such as a handler of log entries. Other connections live here.
                    self.loop.call_exception_handler(
                        {"message": f"{type(exc).__name__} ends no thread that all connections share", "exception": exc}
                    )
            # What was given to it before it was over, and tasks that were cancelled.
            self.loop.run_until_complete(asyncio.sleep(0))
        finally:
            with self._lock:
                # Whatever has ended it: the next connection gets another.
                self._over = True
                if Background._current is self:
                    Background._current = None
            asyncio.set_event_loop(None)
            self.loop.close()

    @property
    def is_ours(self) -> bool:
        """Whether this process made it: a forked child has only a copy, without the thread."""
        return self._process == os.getpid()

    def check_process(self) -> None:
        """Make sure that `is_ours`.

        Raises:
            RuntimeError: If it isn't.
        """
        if not self.is_ours:
            raise RuntimeError("the connection belongs to the parent process: it doesn't survive a fork")

    @property
    def is_here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    @property
    def is_running(self) -> bool:
        """Whether what is given to it will be done."""
        return self.is_ours and not self._over and self._thread.is_alive()

    def post(self, function: Callable[..., object], *args: object) -> bool:
        """Have a function called in the loop, soon; False if it is over.

        Never blocks, and may be called from finalizers.
        """
        if not self.is_ours:
            return False
        with self._lock:
            if self._over:
                return False
            self.loop.call_soon_threadsafe(function, *args)
        return True

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop and wait for what it returns or raises.

        Raises:
            RuntimeError: If the loop is over.
        """
        if self.is_here:
            return function()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        if not self.post(_settle, done, function):
            raise RuntimeError("the connection's event loop is over")
        return done.result()

    @staticmethod
    def uninterrupted(function: Callable[[], T]) -> T:
        """Call a function that no signal interrupts half-way: at most the wait for it, while it goes on to its end."""
        if threading.current_thread() is not threading.main_thread():
            return function()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        threading.Thread(target=_settle, args=(done, function), name="fastws-sync-begin", daemon=True).start()
        return done.result()

    @classmethod
    def _forget(cls) -> None:
        """In a forked child: the thread isn't here, and the lock may be held for ever."""
        cls._lock = threading.RLock()
        cls._current = None


def _settle(done: concurrent.futures.Future[T], function: Callable[[], T]) -> None:
    try:
        result = function()
    except BaseException as exc:
        done.set_exception(exc)
    else:
        done.set_result(result)


if hasattr(os, "register_at_fork"):
    with contextlib.suppress(RuntimeError):
        os.register_at_fork(after_in_child=Background._forget)
