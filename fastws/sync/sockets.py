"""A connected socket, on its way from the thread that has opened it to a pump."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from ..core import Encryption

__all__ = ["SocketTransport"]


class SocketTransport(asyncio.Transport):
    """What a `PumpTransport` is put in the place of: it neither reads nor writes, and closes the socket at the end.

    Args:
        loop: Tells the protocol of the end.
        sock: Connected; the opening handshake is over.
        encryption: Of the socket, if it is one with TLS.
        shutdown_timeout_s: Seconds that the peer has to close TLS on its side.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        encryption: Encryption | None,
        shutdown_timeout_s: float,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self.encryption = encryption
        self.shutdown_timeout_s = shutdown_timeout_s
        self._protocol: Any = None
        self._over = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def pause_reading(self) -> None:
        """Nobody reads."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits."""

    def hand_over(self) -> bytes:
        """A pump has adopted the TLS session. Nothing is left to be written."""
        return b""

    def is_closing(self) -> bool:
        return self._over

    def abort(self) -> None:
        if not self._over:
            self._over = True
            # With TLS, the pump has closed it already.
            self._sock.close()
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._sock
        if name in ("sockname", "peername"):
            with contextlib.suppress(OSError):
                return self._sock.getsockname() if name == "sockname" else self._sock.getpeername()
        if isinstance(self._sock, ssl.SSLSocket):
            if name == "sslcontext":
                return self._sock.context
            if name == "ssl_object":
                return self._sock
        return default
