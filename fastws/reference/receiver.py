"""``recv()``: one message."""

from __future__ import annotations

from typing import Any, Literal, overload

__all__ = ["recv"]


@overload
async def recv(self: Any, decode: Literal[True]) -> str: ...


@overload
async def recv(self: Any, decode: Literal[False]) -> bytes: ...


@overload
async def recv(self: Any, decode: bool | None = None) -> str | bytes: ...


async def recv(self: Any, decode: bool | None = None) -> str | bytes:
    """Receive the next message, as ``websockets`` does.

    Cancelling it never loses a message. Cost: no suspension while messages are queued, but for fairness.

    Args:
        decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

    Raises:
        ConnectionClosed: When the connection is closed and all messages were received.
        ConcurrencyError: If two coroutines receive concurrently.
    """
    message: str | bytes = await self._recv(decode)
    return message


recv.__qualname__ = "Connection.recv"
