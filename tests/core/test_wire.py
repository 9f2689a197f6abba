"""The vocabulary says what is wrong, where it is written and what to answer."""

from __future__ import annotations

import string

import pytest
from websockets.frames import EXTERNAL_CLOSE_CODES, Close

from fastws import wire
from fastws.wire import RULES, Opcode, Utf8Reason, Violation, describe, wire_reason


def test_every_violation_has_a_rule():
    assert set(RULES) == set(Violation)


@pytest.mark.parametrize("violation", Violation)
def test_rules(violation):
    rule = RULES[violation]
    assert rule.close_code in EXTERNAL_CLOSE_CODES
    assert rule.section.startswith("RFC ")
    for text in (rule.detail, rule.reason):
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name}
        assert fields <= {"value", "limit", "reason"}
    for limit in Utf8Reason:
        text = describe(violation, 2**64 - 1, limit)
        assert text.endswith(f"({rule.section}, close {rule.close_code})")
        # It must fit into a close frame.
        assert len(Close(rule.close_code, wire_reason(violation, 2**64 - 1, limit)).serialize()) <= 125


@pytest.mark.parametrize(
    ("violation", "value", "limit", "text", "reason"),
    [
        (
            Violation.MESSAGE_TOO_BIG,
            1048577,
            1048576,
            "payload length 1048577 > max 1048576 (RFC 6455 10.4, close 1009)",
            "",
        ),
        (
            Violation.RESERVED_BITS,
            4,
            0,
            "reserved bits 0b100 set, none negotiated (RFC 6455 5.2, close 1002)",
            "reserved bits must be 0",
        ),
        (Violation.INVALID_OPCODE, 11, 0, "opcode 0xb is reserved (RFC 6455 5.2, close 1002)", "invalid opcode"),
        (
            Violation.INVALID_UTF8,
            7,
            Utf8Reason.CONTINUATION,
            "invalid continuation byte at position 7 (RFC 6455 8.1, close 1007)",
            "invalid continuation byte at position 7",
        ),
    ],
)
def test_words(violation, value, limit, text, reason):
    assert describe(violation, value, limit) == text
    assert wire_reason(violation, value, limit) == reason


def test_opcodes():
    assert [opcode for opcode in Opcode if opcode >= Opcode.CLOSE] == [Opcode.CLOSE, Opcode.PING, Opcode.PONG]


def test_public_names():
    for name in wire.__all__:
        assert hasattr(wire, name)
