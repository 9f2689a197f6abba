"""From bytes to frames, and from frames into the queue: RFC 6455 sections 5 and 6.2, RFC 7692 section 6.2."""

from __future__ import annotations

import time
import zlib

from ..wire import Opcode, Status, Violation
from .admission import Verdict
from .header import MAX_LENGTH, BrokenRuleError, Header, apply_mask
from .inbox import DataFrame
from .inflate import InflatedTooBigError
from .losses import Loss
from .state import DecoderState, Reception

__all__ = ["Decoding"]


class Decoding(DecoderState):
    """The part of `FrameDecoder` that decodes; `_step` is where to begin."""

    def _receive(self, data: bytes) -> Status:
        self._received_ns = time.monotonic_ns()
        self._received_wall_ns = time.time_ns()
        self._bytes_received += len(data)
        if not self._finished:
            self._unparsed += data
        return self._step()

    def _step(self) -> Status:
        """Decode as far as possible and say what it brought."""
        arrivals = self._arrivals
        try:
            while not (self._finished or self._blocked) and self._decode_frame():
                pass
        except BrokenRuleError as broken:
            self._fail(broken)
        if self._blocked:
            self._scan_ahead()
        return (
            (Status.MESSAGE if self._arrivals > arrivals else Status(0))
            | (Status.CONTROL if self._controls else Status(0))
            | (Status.VIOLATION if self._violation is not None else Status(0))
            | (Status.BLOCKED if self._blocked else Status(0))
            | (Status.NOTICE if self._notices else Status(0))
        )

    def _decode_frame(self) -> bool:
        """Decode the next frame; False if it isn't complete, or must wait."""
        header = Header.parse(self._unparsed)
        if header is None:
            return False
        header.check(masked=self._peer_masks, deflate=self._inflater is not None)
        self._check_continuation(header)
        length = header.payload_length(self._unparsed)
        if length is None:
            return False
        self._check_length(header, length)
        end = header.size + length
        if len(self._unparsed) < end:
            return False
        if not header.is_control and self._must_stop:
            self._blocked = True
            return False

        payload = self._payload(header, end)
        reported = self._scanned > 0
        del self._unparsed[:end]
        self._scanned = max(0, self._scanned - end)
        if header.is_control:
            self._take_control(header.opcode, payload, reported)
        elif self._dropping:
            self._drop_data(header)
        else:
            self._take_data(header, payload)
        return True

    def _check_continuation(self, header: Header) -> None:
        """Fragments of a message follow each other, with only control frames between them (RFC 6455 5.4)."""
        if header.opcode == Opcode.CONT:
            if self._reception is None:
                raise BrokenRuleError(Violation.UNEXPECTED_CONTINUATION, 0, 0)
        elif not header.is_control and self._reception is not None:
            raise BrokenRuleError(Violation.EXPECTED_CONTINUATION, header.opcode, 0)

    def _check_length(self, header: Header, length: int) -> None:
        """Refuse a payload that is too long before any of it is stored (RFC 6455 5.2, 10.4)."""
        if length > MAX_LENGTH:
            raise BrokenRuleError(Violation.LENGTH_TOO_LARGE, length, MAX_LENGTH)
        if header.is_control:
            return
        size = (self.current_size or 0) + length
        if self._max_message_size is not None and size > self._max_message_size:
            raise BrokenRuleError(Violation.MESSAGE_TOO_BIG, size, self._max_message_size)
        if self._max_fragment_size is not None and length > self._max_fragment_size:
            raise BrokenRuleError(Violation.FRAGMENT_TOO_BIG, length, self._max_fragment_size)

    def _payload(self, header: Header, end: int, offset: int = 0) -> bytes:
        """The unmasked payload of the complete frame that starts at ``offset`` and ends at ``end``."""
        key = header.masking_key(self._unparsed, offset)
        payload = bytes(memoryview(self._unparsed)[offset + header.size : end])
        return payload if key is None else apply_mask(payload, key)

    def _take_control(self, opcode: int, payload: bytes, reported: bool) -> None:
        if not reported:
            self._controls.append((opcode, payload, self._received_ns))
        if opcode == Opcode.CLOSE:  # "a peer discards any further data received", RFC 6455 1.4
            self.discard()

    def _take_data(self, header: Header, payload: bytes) -> None:
        reception = self._reception
        if reception is None:
            reception = Reception(header)
            if reception.compressed and self._inflater is not None:
                self._inflater.start_message()
        if reception.compressed:
            payload = self._inflate(payload, header.fin, reception.size)
        flaw = None if reception.text is None else reception.text.feed(payload, header.fin)
        if flaw is not None:
            raise BrokenRuleError(Violation.INVALID_UTF8, flaw.position, flaw.reason)
        if self._admission is not None and reception.fragments >= self._max_fragments:
            raise BrokenRuleError(Violation.TOO_MANY_FRAGMENTS, reception.fragments + 1, self._max_fragments)
        reception.size += len(payload)
        reception.fragments += 1
        self._reception = None if header.fin else reception
        if self._admission is None:
            self._queue(header, payload, reception)
        else:
            self._join(header, payload, reception)

    def _queue(self, header: Header, payload: bytes, reception: Reception) -> None:
        """Queue a frame as it is."""
        self._inbox.push(DataFrame(header.opcode, header.fin, payload, self._received_ns))
        self._arrivals += 1
        if header.fin:
            self._complete()
        if self._consumer_starves and reception.fragments > self._max_fragments:
            raise BrokenRuleError(Violation.TOO_MANY_FRAGMENTS, reception.fragments, self._max_fragments)
        self._blocked = self._must_stop

    def _join(self, header: Header, payload: bytes, reception: Reception) -> None:
        """Keep a frame until its message is complete; then the message is admitted, or not."""
        assert self._admission is not None
        reception.parts.append(payload)
        if not header.fin:
            return
        self._complete()
        message = DataFrame(reception.opcode, True, b"".join(reception.parts), self._received_ns)
        verdict = self._admission.admit(message, self._received_wall_ns)
        self._arrivals += verdict in (Verdict.QUEUED, Verdict.FULL)
        self._blocked = verdict is Verdict.FULL
        if verdict is Verdict.DEAD:
            self.discard()

    def _complete(self) -> None:
        self._messages_received += 1
        self._want_message = False

    def _drop_data(self, header: Header) -> None:
        """Throw a frame away; its message was received, and is lost."""
        self._reception = None if header.fin else self._reception or Reception(header)
        if header.fin:
            self._messages_received += 1
            self._losses.add(Loss.DISCARDED)

    def _inflate(self, payload: bytes, fin: bool, size: int) -> bytes:
        """Inflate a payload within what the message, ``size`` bytes so far, and the fragment may still have."""
        assert self._inflater is not None  # rsv1 was refused otherwise.
        limits = []
        if self._max_message_size is not None:
            limits.append(self._max_message_size - size)
        if self._max_fragment_size is not None:
            limits.append(self._max_fragment_size)
        limit = min(limits, default=None)
        try:
            return self._inflater.inflate(payload, fin, limit)
        except InflatedTooBigError:
            assert limit is not None
            raise BrokenRuleError(Violation.INFLATED_TOO_BIG, 0, limit) from None
        except zlib.error:
            raise BrokenRuleError(Violation.INFLATE_FAILED, 0, 0) from None

    def _fail(self, broken: BrokenRuleError) -> None:
        if self._violation is None:
            self._violation = broken.violation
        self.discard()

    def _scan_ahead(self) -> None:
        """Report the pings and pongs that are complete behind the place where decoding stopped.

        Stops at a header that is wrong in itself and at a close frame: what they mean is said in their turn. At the
        end of the stream, the close frame is reported, too.
        """
        while not self._close_seen and (header := Header.parse(self._unparsed, self._scanned)) is not None:
            try:
                header.check(masked=self._peer_masks, deflate=self._inflater is not None)
            except BrokenRuleError:
                return
            length = header.payload_length(self._unparsed, self._scanned)
            if length is None or length > MAX_LENGTH or (header.opcode == Opcode.CLOSE and not self._at_end):
                return
            end = self._scanned + header.size + length
            if len(self._unparsed) < end:
                return
            if header.is_control:
                payload = self._payload(header, end, self._scanned)
                self._controls.append((header.opcode, payload, self._received_ns))
            self._scanned = end
            self._close_seen = header.opcode == Opcode.CLOSE

    def discard(self) -> None:
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
        self._finished = True
        self._blocked = False
        self._unparsed.clear()
        self._scanned = 0
