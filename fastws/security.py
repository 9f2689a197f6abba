"""Whether and how a connection that a receive thread is to take is encrypted, with the user's own `ssl.SSLContext`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import ssl
from collections.abc import Awaitable, Iterator
from typing import Any

from .core import Encryption, libssl_missing
from .tls import TlsTransport

__all__ = ["Security", "unreachable"]


@dataclasses.dataclass(frozen=True)
class Security:
    """How a connection is to be encrypted: arguments of ``loop.create_connection`` and ``loop.create_server``.

    Args:
        context: Of the user.
        server_side: Whether we accept.
        server_hostname: What the certificate of the server must be for; None on the server.
        handshake_timeout_s: Seconds; None is 60.
        shutdown_timeout_s: Seconds; None is 30.
    """

    context: ssl.SSLContext
    server_side: bool
    server_hostname: str | None = None
    handshake_timeout_s: float | None = None
    shutdown_timeout_s: float | None = None

    @classmethod
    def taken_from(cls, arguments: dict[str, Any], server_side: bool) -> Security | None:
        """Take what is about TLS out of the arguments.

        Returns:
            None, with the arguments as they were, where the loop is to do it, or to say what is wrong.
        """
        context = arguments.get("ssl")
        if context is True and not server_side:
            context = ssl.create_default_context()
        hostname = arguments.get("server_hostname")
        timeouts = arguments.get("ssl_handshake_timeout"), arguments.get("ssl_shutdown_timeout")
        if (
            not isinstance(context, ssl.SSLContext)
            or server_side == bool(hostname)
            or any(timeout is not None and not timeout > 0 for timeout in timeouts)
            or unreachable() is not None
            or _judged_by_objects(context, server_side, hostname)
        ):
            return None
        for name in ("ssl", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout"):
            arguments.pop(name, None)
        return cls(context, server_side, hostname, *timeouts)

    def begin(self, plain: Any, connection: Any) -> Awaitable[None]:
        """Encrypt a connection and tell ``connection`` its transport. To be called in ``connection_made``.

        Args:
            plain: Of the loop, and not read yet.
            connection: The protocol.

        Returns:
            To be awaited. It raises what ``loop.create_connection`` raises if the handshake fails.
        """
        plain.pause_reading()
        encryption = None
        try:
            encryption = self._encryption(plain)
            if self.server_side and type(plain).__module__ == "uvloop.loop":
                _divert(plain.get_extra_info("socket").fileno())
        except Exception:
            # The loop can do more (TLS in TLS), or it raises what is wrong. With a server, nobody is there any more.
            if encryption is not None:
                encryption.close()
            meanwhile = _Meanwhile()
            plain.set_protocol(meanwhile)
            return self._start_in_loop(plain, connection, meanwhile)
        loop = asyncio.get_running_loop()
        transport = TlsTransport(
            loop,
            plain,
            encryption,
            connection,
            self.context,
            handshake_timeout_s=self.handshake_timeout_s,
            shutdown_timeout_s=self.shutdown_timeout_s,
        )
        return transport.made()

    async def _start_in_loop(self, plain: Any, connection: Any, meanwhile: _Meanwhile) -> None:
        if self.server_side:
            plain.abort()
        elif meanwhile.ended:
            plain.abort()
            raise ConnectionResetError
        else:
            loop = asyncio.get_running_loop()
            transport = await loop.start_tls(
                plain,
                meanwhile,
                self.context,
                server_side=self.server_side,
                server_hostname=self.server_hostname,
                ssl_handshake_timeout=self.handshake_timeout_s,
                ssl_shutdown_timeout=self.shutdown_timeout_s,
            )
            assert transport is not None
            transport.set_protocol(connection)
            connection.connection_made(transport)

    def _encryption(self, plain: asyncio.Transport) -> Encryption:
        if plain.get_extra_info("sslcontext") is not None:
            raise NotImplementedError("it is encrypted already")
        # uvloop's stand-in for a socket can't be duplicated.
        sock = socket.socket(fileno=os.dup(plain.get_extra_info("socket").fileno()))
        try:
            sock.setblocking(False)
            secured = self.context.wrap_socket(
                sock,
                server_side=self.server_side,
                do_handshake_on_connect=False,
                server_hostname=self.server_hostname,
            )
        except BaseException:
            sock.close()
            raise
        try:
            return Encryption(secured)
        except BaseException:
            secured.close()
            raise


_nothing: tuple[int, int] | None = None
_unreachable: str | None = None


def _divert(fd: int) -> None:
    """Let a descriptor be one on which nothing ever arrives.

    uvloop reads what it has accepted, also if reading is paused in ``connection_made``: the first bytes of the TLS
    handshake would be lost. The connection goes on with its other descriptor.
    """
    global _nothing
    if _nothing is None:
        # Both are kept for as long as there is this process.
        ours, theirs = socket.socketpair()
        _nothing = ours.detach(), theirs.detach()
    os.dup2(_nothing[0], fd, inheritable=False)


def unreachable() -> str | None:
    """Why a pump can't decrypt in this process; None if it can."""
    global _unreachable
    if _unreachable is None:
        _unreachable = libssl_missing() or ""
        if not _unreachable:
            try:
                with _tried(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), False, "localhost") as sock:
                    Encryption(sock)
            except NotImplementedError as exc:
                _unreachable = str(exc)
    return _unreachable or None


class _Meanwhile(asyncio.Protocol):
    """The protocol until the loop's own TLS is established: one that has no transport can't be told of its end."""

    ended = False

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


@contextlib.contextmanager
def _tried(context: ssl.SSLContext, server_side: bool, hostname: str | None) -> Iterator[ssl.SSLSocket]:
    """A socket of a context, connected to nobody."""
    ours, theirs = socket.socketpair()
    with (
        theirs,
        ours,
        context.wrap_socket(
            ours, server_side=server_side, do_handshake_on_connect=False, server_hostname=hostname
        ) as sock,
    ):
        yield sock


def _judged_by_objects(context: ssl.SSLContext, server_side: bool, hostname: str | None) -> bool:
    """Whether a context has a class of its own for what the loop uses, and none for sockets: it may check the peer."""
    if type(context) is not ssl.SSLContext:
        try:
            with _tried(context, server_side, hostname) as sock:
                # It may have wrapped another.
                context = sock.context
        except Exception:
            # The loop is to find out.
            return True
    return context.sslobject_class is not ssl.SSLObject and context.sslsocket_class is ssl.SSLSocket
