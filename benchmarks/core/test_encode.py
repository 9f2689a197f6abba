"""Messages into frames, one by one and in batches, by both roles.

A regression here is paid by ``send``, ``send_batch`` and ``broadcast``; if only clients are slower, look at masking and
at where the keys come from.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from benchmarks.core.cases import CASES, Case, Timed, core
from fastws.wire import Opcode

Encode = Callable[[list[str]], int]


def one_by_one(name: str, role: str) -> Encode:
    """Encode each message by itself; gives the bytes made."""
    if name == "websockets":
        protocol = Protocol({"client": CLIENT, "server": SERVER}[role], state=OPEN)

        def encode(messages: list[str]) -> int:
            for message in messages:
                protocol.send_text(message.encode())
            return sum(map(len, protocol.data_to_send()))
    else:
        encoder = core(name).FrameEncoder(role)

        def encode(messages: list[str]) -> int:
            return sum([len(encoder.encode(Opcode.TEXT, message)) for message in messages])

    return encode


def sizes(case: Case, role: str) -> int:
    """Bytes that the frames of a case have, RFC 6455 5.2."""
    masking = 4 * len(case.messages) if role == "client" else 0
    return len(case.stream.wire) + masking


@pytest.mark.parametrize("name", ["compiled", "reference", "websockets"])
@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("case", [CASES["150 B"], CASES["16 KiB"]], ids=lambda case: case.name)
def test_encode(timed: Timed, name: str, role: str, case: Case) -> None:
    made = timed(f"encode {case.name}, {role}", case.nbytes, one_by_one(name, role), case.messages)
    assert made == sizes(case, role)


@pytest.mark.parametrize("name", ["compiled", "reference"])
@pytest.mark.parametrize("role", ["client", "server"])
def test_encode_batch(timed: Timed, name: str, role: str) -> None:
    case = CASES["150 B"]
    encoder = core(name).FrameEncoder(role)
    made = timed(f"encode 150 B in a batch, {role}", case.nbytes, encoder.encode_batch, case.messages)
    assert len(made) == sizes(case, role)
