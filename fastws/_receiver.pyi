from typing import Any, Literal, final, overload

from ._coroutine import Coroutine

@overload
async def recv(self: Any, decode: Literal[True]) -> str: ...
@overload
async def recv(self: Any, decode: Literal[False]) -> bytes: ...
@overload
async def recv(self: Any, decode: bool | None = None) -> str | bytes:
    """Receive the next message, as ``websockets`` does.

    Cancelling it never loses a message. Cost: no suspension while messages are queued, but for fairness.

    Args:
        decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

    Raises:
        ConnectionClosed: When the connection is closed and all messages were received.
        ConcurrencyError: If two coroutines receive concurrently.
    """

@final
class Receiving(Coroutine):
    """The awaitable that `recv` gives out: a coroutine in all but type. It takes no message before it is awaited."""

    __name__: str
    __qualname__: str
