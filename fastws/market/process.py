"""Processes of our own: they import the same fastws, get no Ctrl-C, and end when their parent does.

A child's task is a JSON object in its first argument; it answers with lines of JSON on its standard output. Its
standard input is a pipe from which nothing ever comes: its end is the parent's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["Child", "answer", "child", "task"]

_LINE_MAX = 64 * 2**20
"""Longest answer in bytes."""

_END_S = 2.0
"""What a child may take to notice that it is to end; on a busy machine it may still be importing."""


class Child:
    """A running child, seen from its parent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def read(self) -> dict[str, Any] | None:
        """The next answer; None once the child has ended."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        # A line without an end is one that the child couldn't finish.
        return json.loads(line) if line.endswith(b"\n") else None


@contextlib.asynccontextmanager
async def child(module: str, task: dict[str, Any]) -> AsyncIterator[Child]:
    """Run a module in a process of its own, and end it with the context.

    Args:
        module: Name of a module that calls `task` and `answer`.
        task: What it is to do.
    """
    # -P and the parent's path: the child finds the same modules, whatever lies in the current folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            module,
            json.dumps(task),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            # Ctrl-C goes to the foreground group of a terminal: it is the parent's to handle.
            process_group=0,
            limit=_LINE_MAX,
        )
    )
    try:
        yield Child(await asyncio.shield(starting))
    finally:
        # Also if we are cancelled while it starts, it starts first: then it can be ended properly.
        process = await starting
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.communicate()
        except TimeoutError:
            # Not before: Popen.kill() may collect a child that has just ended, of which asyncio then complains.
            process.kill()
            await process.communicate()


def task() -> dict[str, Any]:
    """In the child, first of all: what it is to do. From here on it ends when its parent does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def answer(given: dict[str, Any]) -> None:
    """In the child: one answer to the parent."""
    # One write: a line is there as a whole or not at all.
    sys.stdout.write(json.dumps(given) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
