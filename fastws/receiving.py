"""Messages to the user: one by one, in batches, fragment by fragment."""

from __future__ import annotations

import asyncio
import codecs
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from websockets.asyncio import messages as upstream_messages
from websockets.exceptions import ConcurrencyError, ConnectionClosedOK
from websockets.frames import CloseCode, Opcode
from websockets.typing import Data

from .core import Batch, FrameDecoder, MessageIterator, Turn, rebuild_batch, recv
from .failures import failure
from .sending import Sending
from .wire import Violation

__all__ = ["Receiving"]

_TEXT = int(Opcode.TEXT)


class Receiving(Sending):
    """The part of `Connection` that gives messages to the user."""

    # With the loop it costs half: to look for the running one asks the kernel for the process.
    _current_task = staticmethod(asyncio.current_task)

    @property
    def _consumer(self) -> weakref.ref[asyncio.Task[Any]] | None:
        """The task that received last, for the watchdog."""
        return None if self._turn is None else self._turn.consumer

    def __aiter__(self) -> AsyncIterator[Data]:
        """Iterate on incoming messages, as ``websockets`` does.

        Messages that are there already come without suspending; after 5 ms, or 1024 messages or as many as were
        queued, the iterator lets the event loop run once. It ends when the connection is closed normally, and
        raises `ConnectionClosedError` after a protocol error or a network failure.
        """
        if self._decoder is None or type(self).recv is not Receiving.recv:
            # What overrides recv() overrides iteration, as it does with websockets.
            return super().__aiter__()
        assert self._turn is not None
        self._turn.note_consumer(self._current_task(self.loop))
        return MessageIterator(self._decoder, self._turn, self._next, self._resume)

    async def _next(self) -> Data:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    recv = recv

    async def _recv(self, decode: bool | None) -> Data:
        """What `recv` leaves to a coroutine: all that is rare."""
        decoder, turn = self._decoder, self._turn
        if decoder is None or turn is None:
            return await super().recv(decode)
        if turn.busy:
            raise ConcurrencyError("cannot call recv while another coroutine is already running recv or recv_streaming")
        while True:
            if decoder.queued_messages and not turn.spend():
                try:
                    message = decoder.pop(decode)
                except UnicodeDecodeError as exc:
                    return await self._undecodable(exc)
                if message is not None:
                    if decoder.resumable:
                        self._resume()
                    return message
                self._violated(decoder)
            await self._wait(decoder, turn)

    async def recv_batch(self, max_messages: int | None = None) -> Batch:
        """Receive all messages that are there, at least one, in one `Batch`.

        While all that comes is lost, as when `Resync` has given up each key, it waits; events tell of that.

        Args:
            max_messages: Most messages to take, 1 or more; None is no limit.

        Raises:
            ConnectionClosed: When the connection is closed and all messages were received.
            ConcurrencyError: If two coroutines receive concurrently.
            ValueError: If ``max_messages`` is less than 1.
        """
        return await self._recv_batch(max_messages, 0.0)

    async def _recv_batch(self, max_messages: int | None, max_wait: float) -> Batch:
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        decoder, turn = self._decoder, self._turn
        if decoder is None or turn is None:
            return batch_of(await super().recv())
        if turn.busy:
            raise ConcurrencyError(
                "cannot call recv_batch while another coroutine is already running recv or recv_streaming"
            )
        while True:
            if decoder.queued_messages and not turn.spend(1):
                if max_wait > 0.0:
                    await self._gather(decoder, turn, max_messages, max_wait)
                batch = decoder.take(max_messages)
                if batch:
                    turn.spend(len(batch) - 1)
                    if decoder.resumable:
                        self._resume()
                    return batch
                self._violated(decoder)
            await self._wait(decoder, turn)

    async def batches(self, max_messages: int | None = None, max_wait: float = 0.0) -> AsyncIterator[Batch]:
        """Iterate on batches of incoming messages; ends and raises as ``async for message in connection`` does.

        Args:
            max_messages: Most messages in a batch, 1 or more; None is no limit.
            max_wait: Seconds to wait for more messages once there is one; a full batch or a full queue ends it.

        Raises:
            ValueError: If ``max_messages`` is less than 1, or ``max_wait`` negative.
        """
        if max_wait < 0.0:
            raise ValueError(f"max_wait is {max_wait}, must be positive or zero")
        try:
            while True:
                yield await self._recv_batch(max_messages, max_wait)
        except ConnectionClosedOK:
            return

    async def _gather(self, decoder: FrameDecoder, turn: Turn, max_messages: int | None, max_wait: float) -> None:
        """Wait until a batch is full, at most ``max_wait`` seconds."""
        turn.busy = True
        self._arm()
        try:
            async with asyncio.timeout(max_wait):
                while (
                    (max_messages is None or decoder.queued_messages < max_messages)
                    and not decoder.blocked
                    and not self._lost
                ):
                    await self._wake(turn)
        except TimeoutError:
            pass
        finally:
            turn.busy = False

    async def _wait(self, decoder: FrameDecoder, turn: Turn) -> None:
        """Wait until a whole message is queued, or give the loop its turn; raises ConnectionClosed at the end."""
        turn.busy = True
        turn.note_consumer(self._current_task(self.loop))
        self._arm()
        loop_has_run = False
        try:
            if decoder.queued_messages:
                await self._yield(turn)
            decoder.want_message = True
            if decoder.queued_frames > upstream_messages.MAX_FRAGMENTS:
                self._check_fragments(decoder)
            while not decoder.queued_messages:
                if decoder.resumable:
                    self._resume()
                elif self._lost:
                    decoder.discard()
                    await asyncio.shield(self.connection_lost_waiter)
                    raise self.close_exc
                else:
                    await self._wake(turn)
                    loop_has_run = True
            # Messages may have come without it: from a receive thread, or from what was read and not decoded.
            if loop_has_run:
                turn.renew()
            if not self._watched and decoder.queued_messages > 1:
                self._watch()
        finally:
            decoder.want_message = False
            turn.busy = False

    async def _yield(self, turn: Turn) -> None:
        """Give the loop its turn, also if cancelled meanwhile: else short timeouts never get a message."""
        try:
            await asyncio.sleep(0)
        finally:
            turn.renew()

    def _check_fragments(self, decoder: FrameDecoder) -> None:
        """The decoder counts fragments as they come while we wait; these were queued before."""
        if not decoder.queued_messages and self.protocol.parser_exc is None and not self._lost:
            limit = upstream_messages.MAX_FRAGMENTS
            self._fail(*failure(Violation.TOO_MANY_FRAGMENTS, decoder.queued_frames, limit, None))
            self._answer()

    async def _wake(self, turn: Turn) -> None:
        """Suspend until the decoder has made a step or the connection is lost."""
        waiter = turn.waiter = self.loop.create_future()
        try:
            await waiter
        finally:
            turn.waiter = None
            turn.burst = 0
        self._arm()

    async def _undecodable(self, exc: UnicodeDecodeError) -> Data:
        """``decode=True`` on a binary message that isn't UTF-8: fail the connection as websockets does."""
        self.set_connection_exc(exc)
        async with self.send_context():
            self.protocol.fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
        await asyncio.shield(self.connection_lost_waiter)
        raise self.close_exc

    @overload
    def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...

    @overload
    def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...

    @overload
    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]: ...

    async def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]:
        """Receive the next message fragment by fragment, as ``websockets`` does.

        The iterator must be consumed to its end. Cancelling it before the first fragment is safe.

        Args:
            decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

        Raises:
            ConnectionClosed: When the connection is closed and all messages were received.
            ConcurrencyError: If two coroutines receive concurrently.
        """
        decoder, turn = self._decoder, self._turn
        if decoder is None or turn is None:
            async for data in super().recv_streaming(decode):
                yield data
            return
        if turn.busy:
            raise ConcurrencyError(
                "cannot call recv_streaming while another coroutine is already running recv or recv_streaming"
            )
        turn.busy = True
        try:
            opcode, fin, payload = await self._fragment(decoder, turn)
        except BaseException:
            turn.busy = False
            raise
        # From here on the connection stays busy until the message was received to its end.
        decoded = fragment_decoder(opcode, decode)
        while True:
            try:
                data = decoded(payload, fin)
            except UnicodeDecodeError as exc:
                await self._undecodable(exc)
            yield data
            if fin:
                break
            _, fin, payload = await self._fragment(decoder, turn)
        turn.busy = False

    async def _fragment(self, decoder: FrameDecoder, turn: Turn) -> tuple[int, bool, bytes]:
        if turn.spend():
            await self._yield(turn)
        self._arm()
        while (fragment := decoder.pop_fragment()) is None:
            if decoder.resumable:
                self._resume()
            elif self._lost:
                await asyncio.shield(self.connection_lost_waiter)
                raise self.close_exc
            else:
                await self._wake(turn)
                turn.renew()
        if decoder.resumable:
            self._resume()
        return fragment

    def _resume(self) -> None:
        raise NotImplementedError

    def _violated(self, decoder: FrameDecoder) -> None:
        raise NotImplementedError

    def _fail(self, code: int, reason: str, exc: Exception) -> None:
        raise NotImplementedError


def fragment_decoder(opcode: int, decode: bool | None) -> Callable[[bytes, bool], Data]:
    """What makes the fragments of one message into what `Connection.recv_streaming` gives.

    Its arguments are the next fragment and whether that is the last one; between two, a code point may be cut.
    It raises UnicodeDecodeError.
    """
    if decode is None:
        decode = opcode == _TEXT
    return codecs.getincrementaldecoder("utf-8")().decode if decode else lambda payload, fin: payload


def batch_of(message: Data) -> Batch:
    """A batch of one message, for connections whose extensions keep the data plane with websockets."""
    is_text = isinstance(message, str)
    payload = cast(str, message).encode() if is_text else cast(bytes, message)
    return rebuild_batch(
        payload,
        len(payload).to_bytes(8, _BYTE_ORDER),
        bytes([is_text]),
        time.monotonic_ns().to_bytes(8, _BYTE_ORDER, signed=True),
    )


if TYPE_CHECKING:
    _BYTE_ORDER: Literal["little", "big"]
else:
    from sys import byteorder as _BYTE_ORDER
