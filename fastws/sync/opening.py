"""How a connection for threads begins: the handshake of ``websockets``, then a pump."""

from __future__ import annotations

import contextlib
import logging
import socket as socket_module
import ssl
import threading
import weakref
from typing import Any

from websockets.client import ClientProtocol
from websockets.datastructures import HeadersLike
from websockets.http11 import USER_AGENT
from websockets.protocol import OPEN
from websockets.sync.utils import Deadline

from ..connection import MaxQueue
from ..core import Encryption
from ..handshake import HeadEnd
from ..options import take_options
from .background import Background
from .control import Control
from .controlled import Controlled

__all__ = ["Opening", "take_sync_options"]


def take_sync_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take those keyword arguments out that are `Options`, and check them; ``receive`` becomes "thread" or a `Pump`.

    Raises:
        TypeError: If an option isn't of its type.
        ValueError: If a value is out of range, or there are no receive threads.
    """
    if arguments.get("receive") is None:
        arguments["receive"] = "thread"
    elif arguments["receive"] == "loop":
        raise ValueError("receive is 'loop', must be 'thread' or a Pump: no event loop receives for threads")
    return take_options(arguments)


class _Ending:
    """What ``websockets.sync`` looks at to learn whether a connection has ended: there, a thread.

    Args:
        ended: Set when it has.
    """

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or ``timeout`` seconds."""
        self._ended.wait(None if timeout is None else max(0.0, timeout))

    def is_alive(self) -> bool:
        """Whether it hasn't."""
        return not self._ended.is_set()


class Opening(Controlled):
    """The part of `ClientConnection` that begins it."""

    def __init__(
        self,
        socket: socket_module.socket,
        protocol: ClientProtocol,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        max_queue: MaxQueue = None,
        write_limit: int | tuple[int, int | None] = 2**15,
        **kwargs: Any,
    ) -> None:
        self._options = take_sync_options(kwargs)
        if kwargs:
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(kwargs))}")
        self._settings: dict[str, Any] = {
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "close_timeout": close_timeout,
            "max_queue": max_queue,
        }
        self._write_limit = write_limit
        # What websockets does in its place, but for the receiving thread and what belongs to that.
        self.socket = socket
        self.protocol: ClientProtocol = protocol
        self.ping_interval, self.ping_timeout, self.close_timeout = ping_interval, ping_timeout, close_timeout
        self._plain_logger = protocol.logger
        protocol.logger = logging.LoggerAdapter(protocol.logger, {"websocket": weakref.proxy(self)})
        self.id = protocol.id
        self.logger = protocol.logger
        self.debug = protocol.debug
        self.request = self.response = None
        self.protocol_mutex = threading.Lock()
        self.connection_exc = None
        self.keepalive_thread = None
        self.pending_legacy_warning = True
        self._ended = threading.Event()
        self.recv_events_thread: Any = _Ending(self._ended)
        self._early = b""
        if protocol.state is OPEN:
            # It never was CONNECTING: there is no handshake to wait for.
            self._begin(b"")

    def __del__(self) -> None:
        control, background = self._control, self._background
        if control is not None and background is not None and not self._ended.is_set() and control.is_of(self):
            background.post(control.give_up)

    def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = USER_AGENT,
        timeout: float | None = None,
    ) -> None:
        """Perform the opening handshake."""
        deadline = Deadline(timeout)
        self.request = self.protocol.connect()
        if additional_headers is not None:
            self.request.headers.update(additional_headers)
        if user_agent_header is not None:
            self.request.headers.setdefault("User-Agent", user_agent_header)
        self.protocol.send_request(self.request)
        try:
            rest = self._exchange(deadline)
        except TimeoutError:
            raise TimeoutError("timed out while waiting for handshake response") from None
        if self.protocol.handshake_exc is not None:
            raise self.protocol.handshake_exc
        self.socket.settimeout(None)
        self._begin(rest)

    def _exchange(self, deadline: Deadline) -> bytes:
        """Send the request and read the response; returns what came behind it."""
        head: HeadEnd | None = HeadEnd()
        rest = b""
        try:
            for data in self.protocol.data_to_send():
                self.socket.settimeout(deadline.timeout())
                self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            # The response may be there, and tell why.
            self.logger.debug("! error while sending data", exc_info=True)
        while self.response is None and self.protocol.handshake_exc is None:
            self.socket.settimeout(deadline.timeout())
            try:
                data = self.socket.recv(self.recv_bufsize)
            except TimeoutError:
                raise
            except OSError as exc:
                self.logger.debug("! error while receiving data", exc_info=True)
                self.connection_exc = self.connection_exc or exc
                data = b""
            if not data:
                self.protocol.receive_eof()
            elif head is None:
                self.protocol.receive_data(data)
            else:
                size = head.find(data)
                if size < 0:
                    self.protocol.receive_data(data)
                else:
                    head = None
                    self.protocol.receive_data(data[:size])
                    rest = data[size:]
                    if rest and self.response is None and self.protocol.state.name == "CONNECTING":
                        # The body of a refusal.
                        self.protocol.receive_data(rest)
            for event in self.protocol.events_received():
                self.process_event(event)
            if not data:
                break
        return rest

    def process_event(self, event: Any) -> None:
        """Process one incoming event."""
        if self.response is None:
            self.response = event
        else:
            super().process_event(event)

    def _begin(self, rest: bytes) -> None:
        """The connection is open: replace the data plane."""
        encryption, reason = self._encryption()
        if reason is None:
            if Background.uninterrupted(lambda: self._enter(encryption, rest)):
                return
            reason = "an extension needs that"
            if encryption is not None:
                self.socket.setblocking(True)
        self.logger.warning("a thread of websockets receives, and not a pump: %s", reason)
        self._leave_to_websockets(rest)

    def _encryption(self) -> tuple[Encryption | None, str | None]:
        """TLS as a pump wants it, and why it can't be had."""
        if type(self.socket) is socket_module.socket:
            return None, None
        if not isinstance(self.socket, ssl.SSLSocket):
            return None, f"its socket is a {type(self.socket).__name__}"
        try:
            self.socket.setblocking(False)
            return Encryption(self.socket), None
        except NotImplementedError as exc:
            self.socket.setblocking(True)
            return None, str(exc)

    def _enter(self, encryption: Encryption | None, rest: bytes) -> bool:
        background = Background.enter()
        return background.call(lambda: self._make_control(background, encryption, rest))

    def _make_control(self, background: Background, encryption: Encryption | None, rest: bytes) -> bool:
        """In the loop of ``background``, which is left unless a control plane keeps it."""
        began = False
        try:
            control = Control(self, background, write_limit=self._write_limit, **self._settings, **self._options)
            began = control.begin(self.socket, encryption, rest)
        finally:
            if not began:
                background.leave()
        return began

    def _attach(self, control: Control, background: Background) -> None:
        """The data plane is there."""
        decoder = control.pumped_decoder()
        assert control._turn is not None
        self._turn = control._turn
        self._decoder, self._outbox, self._background, self._control = decoder, control.outbox, background, control

    def _leave_to_websockets(self, rest: bytes) -> None:
        request, response, warns = self.request, self.response, self.pending_legacy_warning
        useless = self._options.keys() - {"receive", "max_queue_bytes"}
        if useless:
            self.logger.warning("options of fastws have no effect: %s", ", ".join(sorted(useless)))
        self.protocol.logger = self._plain_logger
        self._early = rest
        for name in ("recv_events_thread", "_ended"):
            vars(self).pop(name)
        super().__init__(self.socket, self.protocol, **self._settings)
        self.request, self.response, self.pending_legacy_warning = request, response, warns

    def recv_events(self) -> None:
        """The receiving thread of ``websockets``, where a pump can't receive."""
        if self._early:
            with self.protocol_mutex:
                self.protocol.receive_data(self._early)
                events = self.protocol.events_received()
                with contextlib.suppress(OSError):
                    self.send_data()
            for event in events:
                super().process_event(event)
        super().recv_events()

    def start_keepalive(self) -> None:
        """Send pings at regular intervals, unless keepalive is disabled."""
        if self._control is None:
            super().start_keepalive()
        elif self.ping_interval is not None:
            control = self._control
            control.ping_interval, control.ping_timeout = self.ping_interval, self.ping_timeout
            self._post(control.start_keepalive)
            self.keepalive_thread = self.recv_events_thread
