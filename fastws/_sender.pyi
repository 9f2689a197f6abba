from collections.abc import AsyncIterable, Iterable
from typing import Any, final

from typing_extensions import Buffer

from ._coroutine import Coroutine
from ._encoder import FrameEncoder

@final
class Sender:
    """Writes the messages of one open connection.

    As long as nothing waits in the transport, a frame goes to the socket directly. Whatever the socket doesn't take
    at once, with or without an error, is the transport's, which then meets the same error and tells of it as ever.

    Args:
        encoder: Makes the frames.
        protocol: Its ``state`` must be ``open_state``, or `send` leaves the message to the connection.
        open_state: The state, compared by identity.
        transport: Where frames go.
        descriptor: File descriptor of the transport's own socket, if bytes that are written to it at a time when
            the transport is not closing and its buffer is empty are what ``write()`` would send; else -1.
    """

    def __init__(
        self, encoder: FrameEncoder, protocol: Any, open_state: Any, transport: Any, descriptor: int = -1
    ) -> None: ...
    @property
    def messages(self) -> int:
        """How many were sent."""
    @property
    def nbytes(self) -> int:
        """Bytes of their frames."""

async def send(
    self: Any,
    message: str | Buffer | Iterable[str | Buffer] | AsyncIterable[str | Buffer],
    *,
    text: bool | None = None,
) -> None:
    """Send a message, as ``websockets`` does.

    Cost: one frame and one write; no suspension unless the transport's buffer is full.

    Args:
        message: A str is sent as text, a bytes-like object as binary; an iterable or asynchronous iterable
            of either as a fragmented message.
        text: True sends bytes as text, False sends str as binary.

    Raises:
        ConnectionClosed: When the connection is closed.
        TypeError: If ``message`` doesn't have a supported type.
    """

@final
class Sending(Coroutine):
    """The awaitable that `send` gives out: a coroutine in all but type. Nothing is sent before it is awaited."""

    __name__: str
    __qualname__: str
