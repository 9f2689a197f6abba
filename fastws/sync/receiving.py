"""Messages to threads: one by one, in batches, fragment by fragment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NoReturn

from websockets.exceptions import ConcurrencyError, ConnectionClosedOK
from websockets.frames import CloseCode
from websockets.sync.messages import MAX_FRAGMENTS
from websockets.typing import Data

from ..blocking import BatchIterator, deadline_after
from ..core import Batch, BlockingIterator, PumpedDecoder
from ..receiving import batch_of, fragment_decoder
from .opening import Opening

__all__ = ["Receiving"]


class Receiving(Opening):
    """The part of `ClientConnection` that gives messages to threads."""

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
                message = self._wait("recv", decoder, lambda: decoder.pop(decode), timeout)
            return message
        except UnicodeDecodeError as exc:
            self._undecodable(exc)

    def _undecodable(self, exc: UnicodeDecodeError) -> NoReturn:
        """``decode=True`` on a binary message that isn't UTF-8: fail the connection as websockets does."""
        self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)
        raise self.close_exc from exc

    def _claim(self, name: str) -> None:
        """Be the one who receives, until ``busy`` of the turn is False again."""
        if not self._turn.claim():
            if self._background is not None:
                # Who receives may be a thread of the parent.
                self._background.check_process()
            raise ConcurrencyError(f"cannot call {name} while another thread is already running recv or recv_streaming")

    def _wait(self, name: str, decoder: PumpedDecoder, take: Any, timeout: float | None) -> Any:
        """Be the one who receives until ``take`` gives something."""
        deadline = deadline_after(timeout)
        turn = self._turn
        self._claim(name)
        try:
            turn.busy = True
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
        if self._decoder is None or type(self).recv is not Receiving.recv:
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
            batch = self._wait("recv_batch", decoder, lambda: decoder.take(max_messages) or None, timeout)
        turn.took(batch)
        return batch

    def iter_batches(self, *, max_messages: int | None = None, timeout: float | None = None) -> BatchIterator:
        """Iterate on batches of incoming messages; ends and raises as ``for message in connection`` does.

        Args:
            max_messages: Most messages in a batch, 1 or more; None is no limit.
            timeout: Seconds to wait for a batch before `TimeoutError`, after which the iteration may go on; None is no
                limit.

        Raises:
            ValueError: If ``max_messages`` is less than 1, or ``timeout`` negative or NaN.
        """
        return BatchIterator(self.recv_batch, max_messages, timeout)

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
        decoded = fragment_decoder(opcode, decode)
        while True:
            try:
                data = decoded(payload, fin)
            except UnicodeDecodeError as exc:
                self._undecodable(exc)
            yield data
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
