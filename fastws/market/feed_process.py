"""The feed in a process of its own, so that it takes no time from receivers and they none from it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
from collections.abc import AsyncIterator
from typing import Any

from .feed import Feed
from .process import Child, answer, child, task
from .tape import Tape

__all__ = ["FeedError", "FeedProcess", "feed_process"]

_MESSAGES = 32_768
"""Of the simulated exchange: enough that nobody's caches or branch predictors learn them by heart."""


class FeedError(Exception):
    """The feed couldn't start: the recording can't be read, or the port is taken."""


class FeedProcess:
    """A running feed.

    Attributes:
        port: Where it listens on 127.0.0.1.
        messages: Messages on its tape.
        mean_bytes: Their average length.
        max_bytes: Length of the longest.
        complete: See `Tape`.
    """

    def __init__(self, child: Child, hello: dict[str, Any]) -> None:
        self._child = child
        self.port: int = hello["port"]
        self.messages: int = hello["messages"]
        self.mean_bytes: float = hello["mean_bytes"]
        self.max_bytes: int = hello["max_bytes"]
        self.complete: bool = hello["complete"]

    async def report(self) -> dict[str, Any] | None:
        """The next report, as `Feed` makes them; None if the process has ended."""
        return await self._child.read()


@contextlib.asynccontextmanager
async def feed_process(recording: str | None = None, port: int = 0, seed: int = 0) -> AsyncIterator[FeedProcess]:
    """Start a feed, and end it with the context.

    Args:
        recording: File to play; None is the simulated exchange.
        port: To listen on at 127.0.0.1; 0 is any free one.
        seed: Of the simulated exchange.

    Raises:
        FeedError: If it can't start.
    """
    async with child(__name__, {"recording": recording, "port": port, "seed": seed}) as process:
        hello = await process.read()
        if hello is None:
            raise FeedError("the feed has died at its start")
        if "error" in hello:
            raise FeedError(hello["error"])
        yield FeedProcess(process, hello)


async def _play(tape: Tape, port: int) -> None:
    try:
        server = await Feed(tape, answer).serve(port)
    except OSError as exc:
        answer({"error": f"cannot listen on 127.0.0.1:{port}: {os.strerror(exc.errno) if exc.errno else exc}"})
        return
    sizes = [len(message) for message in tape.messages]
    answer(
        {
            "port": server.sockets[0].getsockname()[1],
            "messages": len(sizes),
            "mean_bytes": sum(sizes) / len(sizes),
            "max_bytes": max(sizes),
            "complete": tape.complete,
        }
    )
    await server.serve_forever()


def _main() -> None:
    given = task()
    try:
        if given["recording"] is None:
            tape = Tape.simulated(_MESSAGES, given["seed"])
        else:
            tape = Tape.recorded(given["recording"])
    except OSError as exc:
        answer({"error": f"{given['recording']}: {exc.strerror}"})
    except ValueError as exc:
        answer({"error": str(exc)})
    else:
        # epoll's timers round up to milliseconds, which would be the largest part of every message's age.
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            runner.run(_play(tape, given["port"]))


if __name__ == "__main__":
    _main()
