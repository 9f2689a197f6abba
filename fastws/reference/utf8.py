"""Text is UTF-8, RFC 6455 section 8.1, across fragments that may cut a code point in two (5.6)."""

from __future__ import annotations

from typing import NamedTuple

from ..wire import Utf8Reason

__all__ = ["Flaw", "Utf8Validator"]

_REASONS = {
    "invalid start byte": Utf8Reason.START,
    "invalid continuation byte": Utf8Reason.CONTINUATION,
    "unexpected end of data": Utf8Reason.END,
}


class Flaw(NamedTuple):
    """Where a message stops being UTF-8.

    Attributes:
        position: Start of the bad sequence, in bytes from the start of the message.
        reason: What is wrong with it.
    """

    position: int
    reason: Utf8Reason


class Utf8Validator:
    """Validates one message fragment by fragment, in memory that doesn't grow with the message.

    It says what ``bytes.decode()`` says of all fragments so far. ``codecs`` has an incremental decoder, which isn't
    used because it takes ED A0, the start of a surrogate, for something that may still become valid.
    """

    def __init__(self) -> None:
        self._incomplete = b""  # At most 3 bytes: a code point whose end is in the next fragment.
        self._position = 0  # Where these bytes are in the message.

    def feed(self, fragment: bytes, fin: bool) -> Flaw | None:
        """Validate the next fragment; None if it is fine.

        Args:
            fragment: The payload, unmasked and inflated.
            fin: Whether the message ends with it: then it must not end within a code point.
        """
        data = self._incomplete + fragment
        start = len(data)
        try:
            data.decode()
        except UnicodeDecodeError as error:
            reason = _REASONS[error.reason]
            if fin or reason is not Utf8Reason.END:
                return Flaw(self._position + error.start, reason)
            start = error.start
        self._incomplete = data[start:]
        self._position += start
        return None
