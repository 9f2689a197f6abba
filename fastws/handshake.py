"""Where the opening handshake ends in a stream of bytes.

``websockets`` reads the handshake; the data plane reads what follows it. HTTP/1.1 heads end with an empty line
(RFC 9112 2.1), which may be cut between any two reads.
"""

from __future__ import annotations

__all__ = ["HeadEnd"]

_EMPTY_LINE = b"\r\n\r\n"


class HeadEnd:
    """Finds the end of an HTTP head in bytes that arrive in pieces."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def find(self, data: bytes) -> int:
        """Return how many bytes of ``data`` belong to the head once it ends there, else -1. O(len(data))."""
        seen = self._tail + data
        end = seen.find(_EMPTY_LINE)
        if end >= 0:
            return end + len(_EMPTY_LINE) - len(self._tail)
        self._tail = seen[-3:]
        return -1
