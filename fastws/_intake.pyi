from typing import Any

from typing_extensions import disjoint_base

from ._decoder import FrameDecoder
from ._iterator import Turn

@disjoint_base
class Intake:
    """A buffered protocol, what the transport of a connection talks to once it is OPEN."""

    def __init__(self, connection: Any, decoder: FrameDecoder, turn: Turn, burst_max: int, verbose: bool) -> None: ...
    def get_buffer(self, sizehint: int, /) -> memoryview:
        """Memory for the next read."""
    def buffer_updated(self, nbytes: int, /) -> None:
        """So much was read: decode it, and wake who waits for it."""
    def read_for(self, transport: Any, descriptor: int, /) -> None:
        """Read the socket of one of asyncio's own transports in its stead, when the loop finds it readable.

        Saves most of what the transport does in Python for each read. What is rare is left to it.
        """
    def read_ready(self) -> None:
        """The socket is readable: stands in for the transport's own callback."""
    def eof_received(self) -> bool | None:
        """The end of the stream."""
    def connection_lost(self, exc: Exception | None, /) -> None:
        """The end of the transport."""
    def pause_writing(self) -> None:
        """The transport has enough."""
    def resume_writing(self) -> None:
        """The transport takes more."""
