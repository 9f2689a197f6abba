"""One receiver of the demo whose loop is blocked in mid-feed, in a process of its own.

It answers once, with ``{"messages", "lost", "newest", "back_ns", "code"}``: messages that it got and those that it was
told are lost; the number of the newest one in what it received first after the block, and when that was over
(`time.monotonic_ns`), None if it got none any more; and the close code. Or with ``{"error": reason}``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from websockets.exceptions import ConnectionClosed

from ..market.process import answer, task
from .receiver import loop_factory

_QUEUE = 1000
"""Messages that may wait where the oldest are dropped."""


def _connect(receiver: str, url: str) -> Any:
    # Queues and buffers are what each library chooses, but for the policy.
    options: dict[str, Any] = {"compression": None, "max_size": None, "proxy": None}
    if receiver == "websockets":
        import websockets

        return websockets.connect(url, **options)
    import fastws

    options |= {"receive": receiver, "overflow": fastws.DropOldest(), "max_queue": _QUEUE}
    return fastws.connect(url, **options)


async def _takes(receiver: str, websocket: Any) -> AsyncIterator[int]:
    """How many messages come at a time."""
    if receiver == "websockets":
        async for _ in websocket:
            yield 1
    else:
        async for batch in websocket.batches():
            yield len(batch)


async def _receive(given: dict[str, Any]) -> dict[str, Any]:
    receiver = given["receiver"]
    messages = told = 0
    blocks_at: float | None = None
    back_ns: int | None = None
    newest: int | None = None

    async with _connect(receiver, f"ws://127.0.0.1:{given['port']}/{receiver}") as websocket:
        await websocket.send("go")
        blocks_at = time.monotonic() + given["after_s"]
        try:
            async for count in _takes(receiver, websocket):
                messages += count
                if back_ns is not None and newest is None:
                    # All before it has come, or is among those that are lost.
                    newest = messages + _lost(websocket)
                if back_ns is None and time.monotonic() >= blocks_at:
                    time.sleep(given["blocked_s"])  # noqa: ASYNC251  That's what it is about.
                    back_ns = time.monotonic_ns()
        except ConnectionClosed:
            pass
        told = _lost(websocket)
        await websocket.wait_closed()
    return {"messages": messages, "lost": told, "newest": newest, "back_ns": back_ns, "code": websocket.close_code}


def _lost(websocket: Any) -> int:
    return websocket.stats.lost.total if hasattr(websocket, "stats") else 0


def _main() -> None:
    given = task()
    # That it was cut off is in the answer.
    logging.disable()
    try:
        with asyncio.Runner(loop_factory=loop_factory(given["loop"])) as runner:
            answer(runner.run(_receive(given)))
    except Exception as exc:
        answer({"error": f"{type(exc).__name__}: {exc}"})


if __name__ == "__main__":
    _main()
