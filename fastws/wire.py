"""The words of RFC 6455 and RFC 7692: opcodes, limits, and every way a peer can break the rules.

Vocabulary: imports nothing of ours. Both implementations of the data plane report a broken rule as
``(Violation, value, limit)``; this module says what it means, where it is written and which close code answers it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = [
    "CARRY_ON",
    "DEFAULT_MAX_FRAGMENTS",
    "DEFAULT_MAX_QUEUE_BYTES",
    "DEFAULT_MAX_SIZE",
    "NOTICES_MAX",
    "RECORD_BYTES",
    "Notice",
    "Opcode",
    "Rule",
    "Status",
    "Utf8Reason",
    "Violation",
    "describe",
    "wire_reason",
]

DEFAULT_MAX_SIZE = 2**20
"""Largest message accepted unless the user says otherwise, in bytes; the same as in ``websockets``."""

DEFAULT_MAX_QUEUE_BYTES = 16 * 2**20
"""Bytes of messages that may wait for the consumer before reading pauses."""

DEFAULT_MAX_FRAGMENTS = 4096
"""Most fragments one message may have when it is received whole; ``WEBSOCKETS_MAX_FRAGMENTS`` overrides it."""

RECORD_BYTES = 32
"""What one queued frame costs besides its payload; it counts towards ``max_queue_bytes``, so that a flood of
empty messages is bounded too."""


class Opcode(enum.IntEnum):
    """Frame opcodes, RFC 6455 section 5.2."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class Status(enum.IntFlag):
    """What one step of a decoder brought; the return value of ``feed``, ``buffer_updated`` and ``resume``."""

    MESSAGE = 1
    """At least one data frame was queued."""
    CONTROL = 2
    """``controls()`` has something."""
    VIOLATION = 4
    """``violation`` is set; the decoder ignores all further input."""
    BLOCKED = 8
    """A queue limit is reached: stop reading until messages were taken, then call ``resume()``."""
    NOTICE = 16
    """``notices()`` has something."""


CARRY_ON = Status(0)


class Utf8Reason(enum.IntEnum):
    """Why bytes aren't UTF-8, in the words of Python's own decoder."""

    START = 0
    CONTINUATION = 1
    END = 2


class Notice(enum.IntEnum):
    """What the decoder tells the control plane besides frames: the first item of each of its ``notices()``."""

    GAP = 1
    """(GAP, key or None, expected, got)"""
    RESYNC = 2
    """(RESYNC, key, 0, 0): a message of this key was lost, the rest of it is dropped."""
    DISCONNECT = 3
    """(DISCONNECT, reason, close code, 0): a message with the policy `Disconnect` found no room."""
    REPLY = 4
    """(REPLY, None, index of the `Reply`, 0): a message has matched it, and no pump has answered it."""
    NOTICES_LOST = 5
    """(NOTICES_LOST, None, how many, 0): there were more than `NOTICES_MAX` since the last call, or there was no
    memory."""
    NO_ROOM = 6
    """(NO_ROOM, key, messages that wait, 0): a message of `Conflate` found no room, and its ``otherwise`` is `Block`.
    Only the first time."""
    WITHHELD = 7
    """(WITHHELD, None, 0, 0): a pump hasn't sent a reply or heartbeat, as the peer doesn't read. Only the first
    time."""


NOTICES_MAX = 4096
"""Most notices that wait to be taken; what comes then is counted."""


class Violation(enum.IntEnum):
    """Every way in which a peer can break the rules of the data plane."""

    RESERVED_BITS = 1
    INVALID_OPCODE = 2
    INCORRECT_MASKING = 3
    CONTROL_TOO_LONG = 4
    CONTROL_FRAGMENTED = 5
    LENGTH_TOO_LARGE = 6
    MESSAGE_TOO_BIG = 7
    FRAGMENT_TOO_BIG = 8
    INFLATED_TOO_BIG = 9
    UNEXPECTED_CONTINUATION = 10
    EXPECTED_CONTINUATION = 11
    RSV1_CONTINUATION = 12
    INVALID_UTF8 = 13
    INFLATE_FAILED = 14
    TOO_MANY_FRAGMENTS = 15
    OUT_OF_MEMORY = 16


class Rule(NamedTuple):
    """Where a rule is written, which close code answers its violation, and how to say it."""

    close_code: int
    section: str
    detail: str
    """Format string over ``value`` and ``limit``."""
    reason: str
    """What goes into the close frame: the wording of ``websockets``."""


RULES: dict[Violation, Rule] = {
    Violation.RESERVED_BITS: Rule(
        1002, "RFC 6455 5.2", "reserved bits {value:#05b} set, none negotiated", "reserved bits must be 0"
    ),
    Violation.INVALID_OPCODE: Rule(1002, "RFC 6455 5.2", "opcode {value:#x} is reserved", "invalid opcode"),
    Violation.INCORRECT_MASKING: Rule(
        1002, "RFC 6455 5.1", "mask bit is {value}, must be {limit}", "incorrect masking"
    ),
    Violation.CONTROL_TOO_LONG: Rule(
        1002, "RFC 6455 5.5", "control frame payload length {value} > max {limit}", "control frame too long"
    ),
    Violation.CONTROL_FRAGMENTED: Rule(
        1002, "RFC 6455 5.5", "control frame {value:#x} has fin {limit}, must be 1", "fragmented control frame"
    ),
    Violation.LENGTH_TOO_LARGE: Rule(
        1002, "RFC 6455 5.2", "payload length {value} > max {limit}", "payload length too large"
    ),
    Violation.MESSAGE_TOO_BIG: Rule(1009, "RFC 6455 10.4", "payload length {value} > max {limit}", ""),
    Violation.FRAGMENT_TOO_BIG: Rule(1009, "RFC 6455 10.4", "fragment length {value} > max {limit}", ""),
    Violation.INFLATED_TOO_BIG: Rule(1009, "RFC 6455 10.4", "payload inflates to more than max {limit}", ""),
    Violation.UNEXPECTED_CONTINUATION: Rule(
        1002, "RFC 6455 5.4", "continuation frame outside a fragmented message", "unexpected continuation frame"
    ),
    Violation.EXPECTED_CONTINUATION: Rule(
        1002, "RFC 6455 5.4", "opcode {value:#x} inside a fragmented message", "expected a continuation frame"
    ),
    Violation.RSV1_CONTINUATION: Rule(
        1002, "RFC 7692 6.1", "rsv1 set on a continuation frame", "RSV1 bit set in continuation frame"
    ),
    Violation.INVALID_UTF8: Rule(1007, "RFC 6455 8.1", "{reason} at position {value}", "{reason} at position {value}"),
    Violation.INFLATE_FAILED: Rule(1002, "RFC 7692 7.2.2", "payload isn't a DEFLATE stream", "decompression failed"),
    Violation.TOO_MANY_FRAGMENTS: Rule(
        1009, "RFC 6455 10.4", "message has {value} fragments > max {limit}", "too many fragments"
    ),
    Violation.OUT_OF_MEMORY: Rule(1011, "RFC 6455 7.4.1", "no memory for {value} bytes", ""),
}

_UTF8_REASONS = {
    Utf8Reason.START: "invalid start byte",
    Utf8Reason.CONTINUATION: "invalid continuation byte",
    Utf8Reason.END: "unexpected end of data",
}


def _utf8_reason(violation: Violation, limit: int) -> str:
    return _UTF8_REASONS[Utf8Reason(limit)] if violation is Violation.INVALID_UTF8 else ""


def describe(violation: Violation, value: int, limit: int) -> str:
    """Say what was wrong: value, limit, section and close code.

    >>> describe(Violation.MESSAGE_TOO_BIG, 1048577, 1048576)
    'payload length 1048577 > max 1048576 (RFC 6455 10.4, close 1009)'
    """
    rule = RULES[violation]
    text = rule.detail.format(value=value, limit=limit, reason=_utf8_reason(violation, limit))
    return f"{text} ({rule.section}, close {rule.close_code})"


def wire_reason(violation: Violation, value: int, limit: int) -> str:
    """Return the reason for the close frame, in the wording of ``websockets``; empty where it computes its own."""
    return RULES[violation].reason.format(value=value, limit=limit, reason=_utf8_reason(violation, limit))
