"""A connection of ``websockets.sync`` that receives on a pump.

Threads that receive wait for the pump, without the GIL; those that send write to the socket themselves. What is rare
(keepalive, the closing handshake, events) is done by a `Control` in the event loop of a `Background` thread.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import socket as socket_module
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from websockets.client import ClientProtocol
from websockets.datastructures import HeadersLike
from websockets.exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedOK
from websockets.frames import CloseCode, Opcode
from websockets.http11 import USER_AGENT
from websockets.protocol import CLOSED, OPEN
from websockets.sync.client import ClientConnection as UpstreamClientConnection
from websockets.sync.messages import MAX_FRAGMENTS
from websockets.sync.utils import Deadline
from websockets.typing import BytesLike, Data, DataLike

from ..connection import MaxQueue
from ..core import Batch, BlockingIterator, Encryption, PumpedDecoder, Turn
from ..handshake import HeadEnd
from ..observe.stats import Stats
from ..options import Options, take_options
from ..receiving import batch_of
from .background import Background
from .control import Control
from .outbox import Outbox, checked

__all__ = ["ClientConnection", "take_sync_options"]

_TEXT, _BINARY, _CONT = int(Opcode.TEXT), int(Opcode.BINARY), int(Opcode.CONT)
_GRACE_S = 1.0
"""In which a socket that was aborted is closed, unless nobody is there any more to do it."""


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


class BatchIterator(Iterator[Batch]):
    """What `ClientConnection.iter_batches` gives; it can be continued after a `TimeoutError`."""

    def __init__(self, connection: ClientConnection, max_messages: int | None, timeout: float | None) -> None:
        self._connection = connection
        self._max_messages = max_messages
        self._timeout = timeout

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        try:
            return self._connection.recv_batch(self._max_messages, self._timeout)
        except ConnectionClosedOK:
            raise StopIteration from None


class ClientConnection(UpstreamClientConnection):
    """A client connection of ``websockets.sync`` with the data plane of fastws.

    It receives and sends as ``websockets.sync.client.ClientConnection`` does, and in batches::

        with connect("ws://localhost:8765") as websocket:
            for batch in websocket.iter_batches():
                for message in batch:
                    ...

    One thread may receive at a time; any number may send. Where a pump can't receive (TLS in TLS, an extension that
    isn't permessage-deflate), it does as ``websockets`` does, with a thread of Python, after a warning in the log.

    Args:
        socket: Connected to a WebSocket server.
        protocol: Sans-I/O connection.
        ping_interval: As in ``websockets``, and so are the next two.
        ping_timeout: Seconds, or None.
        close_timeout: Seconds, or None.
        max_queue: Messages that may wait for the consumer before the queue is full, or a (high, low) pair of marks;
            None is no limit.
        write_limit: Bytes that may wait for the socket before sending waits, or a (high, low) pair of marks.
        **kwargs: `Options`.
    """

    # Both are set before anything can fail, for __del__.
    _control: Control | None = None
    _background: Background | None = None

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
        # The data plane; None before the handshake, and if it stays with websockets.
        self._decoder: PumpedDecoder | None = None
        self._turn: Turn
        self._outbox: Outbox | None = None
        self._ended = threading.Event()
        self.recv_events_thread: Any = _Ending(self._ended)
        self._early = b""
        if protocol.state is OPEN:
            # It never was CONNECTING: there is no handshake to wait for.
            self._begin(b"")

    def __del__(self) -> None:
        control, background = self._control, self._background
        if control is not None and background is not None and not self._ended.is_set():
            background.post(control.give_up)

    # Opening

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
            background = Background.enter()
            if background.call(lambda: self._make_control(background, encryption, rest)):
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
        self._turn = Turn(decoder)
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

    # Receiving

    def recv(self, timeout: float | None = None, decode: bool | None = None) -> Any:
        """Receive the next message, as ``websockets.sync`` does.

        Waiting takes no GIL. A timeout never loses a message.

        Args:
            timeout: Seconds to wait for a message before `TimeoutError`; None is no limit, 0 or less takes only what
                is there.
            decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

        Raises:
            ConnectionClosed: When the connection is closed and all messages were received.
            ConcurrencyError: If two threads receive concurrently.
            TimeoutError: If no whole message is there in time.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        decoder = self._decoder
        if decoder is None:
            return super().recv(timeout, decode)
        try:
            message = self._turn.take(decode)
            if message is None:
                self._claim("recv")
                message = self._wait(decoder, lambda: decoder.pop(decode), timeout)
            return message
        except UnicodeDecodeError as exc:
            self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)
            raise self.close_exc from exc

    def _claim(self, name: str) -> None:
        """Be the one who receives, until ``busy`` of the turn is False again."""
        if not self._turn.claim():
            raise ConcurrencyError(f"cannot call {name} while another thread is already running recv or recv_streaming")

    def _wait(self, decoder: PumpedDecoder, take: Any, timeout: float | None) -> Any:
        """Wait until ``take`` gives something; then others may receive."""
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        turn = self._turn
        turn.busy = True
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if decoder.queued_frames > MAX_FRAGMENTS and not decoder.queued_messages:
                    self._post(self._control_().check_fragments)
                if not decoder.wait(left):
                    raise TimeoutError(f"timed out in {timeout:.1f}s")
                if decoder.resumable:
                    decoder.resume()
                taken = take()
                if taken is not None:
                    if decoder.resumable:
                        decoder.resume()
                    return taken
                # At the end, the loop says why; and what wasn't decoded for want of room has come by then.
                if decoder.is_over and not self._await_end(left):
                    raise TimeoutError(f"timed out in {timeout:.1f}s")
                if self._ended.is_set() and not decoder.queued_messages and not decoder.resumable:
                    raise self.close_exc
        finally:
            turn.busy = False
            turn.renew()

    def __iter__(self) -> Iterator[Data]:
        """Iterate on incoming messages, as ``websockets.sync`` does.

        It ends when the connection is closed normally, and raises `ConnectionClosedError` after a protocol error or a
        network failure.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        if self._decoder is None or type(self).recv is not ClientConnection.recv:
            # What overrides recv() overrides iteration.
            return super().__iter__()
        return BlockingIterator(self._turn, self._next)

    def _next(self) -> Data:
        try:
            return self.recv()  # type: ignore[no-any-return]
        except ConnectionClosedOK:
            raise StopIteration from None

    def recv_batch(self, max_messages: int | None = None, timeout: float | None = None) -> Batch:
        """Receive all messages that are there, at least one, in one `Batch`.

        Args:
            max_messages: Most messages to take, 1 or more; None is no limit.
            timeout: Seconds to wait for a message before `TimeoutError`; None is no limit, 0 or less takes only what
                is there.

        Raises:
            ConnectionClosed: When the connection is closed and all messages were received.
            ConcurrencyError: If two threads receive concurrently.
            TimeoutError: If no whole message is there in time.
            ValueError: If ``max_messages`` is less than 1.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        decoder = self._decoder
        if decoder is None:
            return batch_of(super().recv(timeout))
        self._claim("recv_batch")
        turn = self._turn
        try:
            if turn.spend():
                turn.renew()
            batch = decoder.take(max_messages)
            if batch and decoder.resumable:
                decoder.resume()
        finally:
            turn.busy = False
        if not batch:
            self._claim("recv_batch")
            batch = self._wait(decoder, lambda: decoder.take(max_messages) or None, timeout)
        turn.took(batch)
        return batch

    def iter_batches(self, *, max_messages: int | None = None, timeout: float | None = None) -> BatchIterator:
        """Iterate on batches of incoming messages; ends and raises as ``for message in connection`` does.

        Args:
            max_messages: Most messages in a batch, 1 or more; None is no limit.
            timeout: Seconds to wait for a batch before `TimeoutError`, after which the iteration may go on; None is no
                limit.

        Raises:
            ValueError: If ``max_messages`` is less than 1, or ``timeout`` negative.
        """
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        if timeout is not None and timeout < 0.0:
            raise ValueError(f"timeout is {timeout}, must be positive or zero")
        return BatchIterator(self, max_messages, timeout)

    def recv_streaming(self, decode: bool | None = None) -> Any:
        """Receive the next message fragment by fragment, as ``websockets.sync`` does.

        The iterator must be consumed to its end.

        Args:
            decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

        Raises:
            ConnectionClosed: When the connection is closed and all messages were received.
            ConcurrencyError: If two threads receive concurrently.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        return super().recv_streaming(decode) if self._decoder is None else self._stream(self._decoder, decode)

    def _stream(self, decoder: PumpedDecoder, decode: bool | None) -> Iterator[Data]:
        self._claim("recv_streaming")
        try:
            opcode, fin, payload = self._fragment(decoder)
        except BaseException:
            self._turn.busy = False
            raise
        # From here on nobody else receives until the message was received to its end.
        if decode is None:
            decode = opcode == _TEXT
        utf8 = codecs.getincrementaldecoder("utf-8")() if decode else None
        while True:
            if utf8 is None:
                yield payload
            else:
                try:
                    text = utf8.decode(payload, fin)
                except UnicodeDecodeError as exc:
                    self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)
                    raise self.close_exc from exc
                yield text
            if fin:
                break
            _, fin, payload = self._fragment(decoder)
        self._turn.busy = False

    def _fragment(self, decoder: PumpedDecoder) -> tuple[int, bool, bytes]:
        while (fragment := decoder.pop_fragment()) is None:
            if decoder.resumable:
                decoder.resume()
            elif decoder.is_over and self._await_end(None) and not decoder.queued_frames and not decoder.resumable:
                raise self.close_exc
            else:
                decoder.wait_frame()
        if decoder.resumable:
            decoder.resume()
        return fragment

    # Sending

    def send(self, message: DataLike | Iterable[DataLike], *, text: bool | None = None) -> None:
        """Send a message, as ``websockets.sync`` does: it waits while more than ``write_limit`` bytes wait.

        Args:
            message: A str is sent as text, a bytes-like object as binary; an iterable of either as a fragmented
                message.
            text: True sends bytes as text, False sends str as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another thread is sending a fragmented message.
            TypeError: If ``message`` doesn't have a supported type.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        outbox = self._outbox
        if outbox is None:
            super().send(message, text=text)
            return
        if isinstance(message, str):
            opcode = _BINARY if text is False else _TEXT
        elif isinstance(message, BytesLike):
            opcode = _TEXT if text is True else _BINARY
        elif isinstance(message, Mapping):
            raise TypeError("data is a dict-like object")
        elif isinstance(message, Iterable):
            self._send_fragments(outbox, message, text)
            return
        else:
            raise TypeError("data must be str, bytes, or iterable")
        with outbox.lock:
            if is_open := outbox.is_open:
                if outbox.fragmenting:
                    raise ConcurrencyError("cannot call send while another thread is already running send")
                outbox.put(opcode, message)
        self._sent(outbox, is_open)

    def _sent(self, outbox: Outbox, is_open: bool) -> None:
        """What is to be done after a frame, without the lock: wait for room, or for the end."""
        sock = outbox.socket
        if not is_open or sock.error:
            self._raise_closed()
        if sock.is_full and not self._is_in_loop:
            sock.wait_drained()
            if sock.error:
                self._raise_closed()

    def _send_fragments(self, outbox: Outbox, message: Iterable[DataLike], text: bool | None) -> None:
        chunks = iter(message)
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        begun = False
        try:
            if isinstance(chunk, str):
                opcode = _BINARY if text is False else _TEXT
                kind: Any = str
            elif isinstance(chunk, BytesLike):
                opcode = _TEXT if text is True else _BINARY
                kind = BytesLike
            else:
                raise TypeError("iterable must contain bytes or str")
            with outbox.lock:
                if is_open := outbox.is_open:
                    if outbox.fragmenting:
                        raise ConcurrencyError("cannot call send while another thread is already running send")
                    outbox.fragmenting = begun = True
                    outbox.put(opcode, chunk, False)
            self._sent(outbox, is_open)
            for chunk in chunks:
                if not isinstance(chunk, kind):
                    raise TypeError("iterable must contain uniform types")
                self._send_fragment(outbox, chunk, False)
            self._send_fragment(outbox, b"", True)
        except ConcurrencyError:
            if begun:
                self._fail(CloseCode.INTERNAL_ERROR, "error in fragmented message")
            raise
        except Exception:
            self._fail(CloseCode.INTERNAL_ERROR, "error in fragmented message")
            raise
        self._post(self._control_().send_deferred)

    def _send_fragment(self, outbox: Outbox, chunk: DataLike, fin: bool) -> None:
        with outbox.lock:
            if is_open := outbox.is_open:
                outbox.put(_CONT, chunk, fin)
                outbox.fragmenting = not fin
        self._sent(outbox, is_open)

    def send_batch(self, messages: Iterable[DataLike], *, text: bool | None = None) -> None:
        """Send many messages in one write.

        Args:
            messages: Each str becomes a text message, each bytes-like object a binary one.
            text: True sends all of them as text, False all of them as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another thread is sending a fragmented message.
            TypeError: If a message is neither str nor bytes-like; nothing is sent then.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        batch = checked(messages)
        outbox = self._outbox
        if outbox is None:
            for message in batch:
                super().send(message, text=text)
            return
        with outbox.lock:
            if is_open := outbox.is_open:
                if outbox.fragmenting:
                    raise ConcurrencyError("cannot call send_batch while another thread is already running send")
                if batch:
                    outbox.put_batch(batch, text)
        self._sent(outbox, is_open)

    @property
    def send_in_progress(self) -> bool:
        """Whether a message is being sent in fragments."""
        return self._fragmenting if self._outbox is None else self._outbox.fragmenting

    @send_in_progress.setter
    def send_in_progress(self, value: bool) -> None:
        self._fragmenting = value

    _fragmenting = False

    # Control

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
        if not self._background.is_ours:
            raise RuntimeError("the connection belongs to the parent process: it doesn't survive a fork")
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
