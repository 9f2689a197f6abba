"""Pings, closing and figures of a connection for threads."""

from __future__ import annotations

import threading
import time
from typing import Any, NoReturn

from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import CLOSED
from websockets.sync.client import ClientConnection as UpstreamClientConnection
from websockets.typing import BytesLike, DataLike

from ..core import PumpedDecoder, Turn
from ..observe.bus import BlockingEventIterator
from ..observe.stats import Stats
from ..options import Options
from .background import Background
from .control import Control
from .outbox import Outbox

__all__ = ["Controlled"]

_GRACE_S = 1.0
"""In which a socket that was aborted is closed, unless nobody is there any more to do it."""


class Controlled(UpstreamClientConnection):
    """The part of `ClientConnection` that asks its `Control`, in the loop of a `Background` thread."""

    # Set before anything can fail, for __del__.
    _control: Control | None = None
    _background: Background | None = None
    # The data plane; None before the handshake, and if it stays with websockets.
    _decoder: PumpedDecoder | None = None
    _outbox: Outbox | None = None
    _turn: Turn
    _ended: threading.Event
    _options: dict[str, Any]

    def ping(self, data: DataLike | None = None, *, ack_on_close: bool = False) -> threading.Event:
        """Send a ping, as ``websockets.sync`` does.

        Args:
            data: Payload; a str is encoded to UTF-8. None is four random bytes.
            ack_on_close: Whether the event is also set when the connection is closed.

        Returns:
            Set when the pong is received.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another ping was sent with the same data and its pong wasn't received yet.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        if self._control is None:
            return super().ping(data, ack_on_close=ack_on_close)
        payload = None if data is None else _payload(data)
        control = self._control
        event: threading.Event | None = self._call(lambda: control.ping_now(payload, ack_on_close))
        return self._raise_closed() if event is None else event

    def pong(self, data: DataLike = b"") -> None:
        """Send a pong, as ``websockets.sync`` does.

        Args:
            data: Payload; a str is encoded to UTF-8.

        Raises:
            ConnectionClosed: When the connection is closed.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        if self._control is None:
            super().pong(data)
            return
        payload, control = _payload(data), self._control
        if not self._call(lambda: control.pong_now(payload)):
            self._raise_closed()

    def close(self, code: CloseCode | int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Perform the closing handshake, as ``websockets.sync`` does; at most ``close_timeout`` seconds.

        Args:
            code: Close code.
            reason: Close reason.

        Raises:
            ProtocolError: If the code may not be sent, or the reason is too long.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        if self._control is None:
            super().close(code, reason)
            return
        control = self._control
        assert self._background is not None
        if self._background.is_ours and not self._ended.is_set():
            self._call(lambda: control.shut(code, reason))
            self._close_in_time()

    def close_socket(self) -> None:
        """Close the socket without a closing handshake."""
        if self._control is not None:
            self._post(self._control.give_up)
            self._await_end(None)
        elif "_ended" in vars(self):
            self.socket.close()
            self.protocol.receive_eof()
            self._ended.set()
        else:
            super().close_socket()

    def _fail(self, code: CloseCode, reason: str, exc: Exception | None = None) -> None:
        """Fail the connection and wait for its end."""
        control = self._control_()
        self._call(lambda: control.fail(code, reason, exc))
        self._close_in_time()

    def _close_in_time(self) -> None:
        """Wait for the end of a connection that isn't open; after ``close_timeout``, bring it about."""
        if self._is_in_loop:
            return
        control = self._control_()
        control.close_timeout = self.close_timeout
        close_by = control.close_by()
        if not self._await_end(None if close_by is None else max(0.0, close_by - time.monotonic())):
            self._post(control.give_up, TimeoutError("timed out while closing connection"))
            self._await_end(None)

    def _await_end(self, timeout: float | None) -> bool:
        """Wait until the connection is closed, at most ``timeout`` seconds, or until there is nobody to close it."""
        assert self._background is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _GRACE_S if deadline is None else min(_GRACE_S, deadline - time.monotonic())
            if self._ended.wait(max(0.0, left)):
                return True
            if not self._can_end:
                # Threads are gone: the interpreter is about to end.
                self.protocol.receive_eof()
                self._ended.set()
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    @property
    def _can_end(self) -> bool:
        assert self._background is not None
        assert self._outbox is not None
        pump = self._outbox.socket.pump
        return self._background.is_running and (pump.running or not pump.connections)

    def _raise_closed(self) -> NoReturn:
        """The connection isn't open: wait for its end, and say why.

        Raises:
            ConnectionClosed: Always, but in the loop before the end.
        """
        self._close_in_time()
        if self.protocol.state is CLOSED:
            raise self.close_exc
        raise ConcurrencyError("the connection is closing, and on_event can't wait for its end")

    @property
    def close_exc(self) -> ConnectionClosed:
        """Why the connection is closed."""
        exc = self.protocol.close_exc
        cause = self.connection_exc if self._control is None else self._control.connection_exc
        if cause is not None:
            exc.__cause__ = cause
        return exc

    def send_data(self) -> None:
        """Send outgoing data; a pump has done that already."""
        if self._control is None:
            super().send_data()

    @property
    def _is_in_loop(self) -> bool:
        return self._background is not None and self._background.is_here

    def _control_(self) -> Control:
        assert self._control is not None
        return self._control

    def _post(self, function: Any, *args: Any) -> None:
        assert self._background is not None
        self._background.post(function, *args)

    def _call(self, function: Any) -> Any:
        """Call a function in the loop; None if it is over."""
        assert self._background is not None
        self._background.check_process()
        self._control_().close_timeout = self.close_timeout
        try:
            return self._background.call(function)
        except RuntimeError:
            if self._background.is_running:
                raise
            return None

    # Figures

    @property
    def latency(self) -> float:
        """Seconds from the last ping to its pong; 0.0 before the first."""
        return self._latency if self._control is None else self._control.latency

    @latency.setter
    def latency(self, value: float) -> None:
        self._latency = value

    _latency = 0.0

    @property
    def stats(self) -> Stats:
        """All figures at this moment. Cost: some microseconds, more where thousands of keys have lost messages."""
        return Stats(latency_s=self.latency) if self._control is None else self._control.stats

    @property
    def options(self) -> Options:
        """What was asked for."""
        return Options(**self._options)

    @property
    def given_up(self) -> frozenset[str]:
        """Keys whose messages the policy `Resync` drops until ``resynced(key)``."""
        return frozenset() if self._control is None else self._control.given_up

    def events(self, max_events: int = 1024, *, timeout: float | None = None) -> BlockingEventIterator:
        """Iterate on what happens to the connection, until it is closed; for a thread of its own.

        There may be several iterators; each gets all events. The first begins with what has happened since the
        connection was opened, at most the last 64 events; further ones do so, too, until the next event.

        Args:
            max_events: Most events that wait; then the oldest are dropped, and an `EventsLost` says how many.
            timeout: Seconds to wait for an event before `TimeoutError`, after which the iteration may go on; None is
                no limit.

        Raises:
            ValueError: If ``max_events`` is less than 1, or ``timeout`` negative or NaN.
            RuntimeError: In ``on_event=``, which is called by the thread that events come from.
        """

        def make(ended: bool) -> BlockingEventIterator:
            return BlockingEventIterator(max_events, ended, timeout)

        if self._control is None:
            # The data plane stayed with websockets, which tells of nothing.
            return make(True)
        if self._is_in_loop:
            raise RuntimeError("events() would wait for the thread that it is called by")
        bus = self._control._bus
        events = self._call(lambda: bus.subscribe(make))
        # The loop is over, and so are its events.
        return bus.subscribe(make) if events is None else events

    def resynced(self, key: str) -> None:
        """After `ResyncNeeded`: messages of ``key`` are delivered again from now on. Get the snapshot afterwards."""
        if self._control is not None:
            self._control.resynced(key)


def _payload(data: Any) -> bytes:
    if isinstance(data, BytesLike):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    raise TypeError("data must be str or bytes-like")
