"""What the demo says about blocked loops."""

from __future__ import annotations

import json

import pytest

from fastws.cli import blocked
from fastws.cli.blocked import Blocked
from fastws.cli.errors import CommandError

THREAD = Blocked("thread", 61, 61, 0.002, 1000, 0.0015, 6000, 2000, 4000, 1000.0)
WEBSOCKETS = Blocked("websockets", 31, 6, 0.0007, 1011, 5.0042, 6000, 3096, 0, 1000.0)
NEVER = Blocked("loop", 25, 0, None, 1011, None, 6000, 0, 0, 1000.0)

SENT = {
    "receiver": "thread",
    "start_ns": 1_000_000_000,
    "due": 6000,
    "sent": 6000,
    "pings": 61,
    "answered": 61,
    "slowest_s": 0.002,
    "cut_off": False,
    "lost": None,
}
RECEIVED = {"messages": 2000, "lost": 4000, "newest": 5500, "back_ns": 6_502_000_000, "code": 1000}


def test_the_table_has_a_line_for_each_receiver_and_aligned_columns() -> None:
    head, *lines = blocked.table([THREAD, NEVER, WEBSOCKETS], 5.0).split("\n")
    assert head.startswith("loop blocked for 5 s ")
    assert len({len(line) for line in (head, *lines)}) == 1
    thread, loop, websockets = (line.split("  ") for line in lines)
    assert [cell.strip() for cell in thread if cell] == [
        'fastws receive="thread"',
        *("61 of 61", "2.0 ms", "survived", "1.5 ms", "4,000", "4,000"),
    ]
    assert [cell.strip() for cell in loop if cell] == [
        'fastws receive="loop"',
        *("0 of 25", "> 2,500.0 ms", "cut off, 1011", "-", "6,000", "0"),
    ]
    assert [cell.strip() for cell in websockets if cell] == [
        "websockets",
        *("6 of 31", "> 2,500.0 ms", "cut off, 1011", "5,004.2 ms", "2,904", "0"),
    ]


def test_json_has_the_same() -> None:
    document = blocked.as_json([THREAD, NEVER], 5.0)
    json.dumps(document, allow_nan=False)
    assert (document["seconds"], document["ping_timeout_s"]) == (5.0, 2.5)
    thread, loop = document["receivers"]
    assert (thread["survived"], thread["newest_ms"], thread["missed"]) == (True, pytest.approx(1.5), 4000)
    assert (loop["survived"], loop["slowest_ms"], loop["newest_ms"]) == (False, None, None)


def test_a_result_is_made_of_both_ends() -> None:
    assert blocked._result(SENT, RECEIVED, 1000.0) == Blocked(
        "thread", 61, 61, 0.002, 1000, pytest.approx(0.002), 6000, 2000, 4000, 1000.0
    )


@pytest.mark.parametrize(
    ("sent", "received", "text"),
    [
        ({}, {"messages": 1999}, "1999 messages were received and 4000 lost, 6000 sent"),
        ({}, {"messages": 2001}, "2001 messages were received and 4000 lost, 6000 sent"),
        ({"cut_off": True}, {"messages": 2001}, "2001 messages were received and 4000 lost, 6000 sent"),
        ({"lost": "reset"}, {}, "the feed has lost its receiver: reset"),
    ],
)
def test_what_does_not_add_up_is_no_result(sent: dict, received: dict, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        blocked._result(SENT | sent, RECEIVED | received, 1000.0)


def test_who_was_cut_off_may_have_missed_some() -> None:
    sent, received = SENT | {"cut_off": True, "sent": 3000}, RECEIVED | {"messages": 2500, "lost": 0, "code": 1011}
    result = blocked._result(sent, received, 1000.0)
    assert (result.survived, result.missed) == (False, 3500)
