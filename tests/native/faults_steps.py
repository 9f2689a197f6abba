"""Steps of decoders and encoders without a socket, in which one allocation after the other fails.

Both ours, by the library of faults.py, and those of Python objects, by `_testcapi.set_nomemory`. Whoever is told that
there is no memory tries again, and then nothing is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from fastws import Conflate, Disconnect, DropOldest, Resync
from fastws._decoder import FrameDecoder
from fastws._encoder import FrameEncoder
from fastws._pumped import PumpedDecoder
from fastws._segment import live_segments
from fastws.core import rebuild_batch
from fastws.deflate import Deflate
from fastws.wire import Notice, Opcode, Violation
from tests.core.streams import deflate, frame

try:
    import _testcapi
except ImportError:
    _testcapi = None

TRIES_MAX = 2000
PYTHON_MAX = 400
"""There may be more allocations of Python, but then the step has begun again."""
Fail: TypeAlias = Callable[[int], Any]
"""Makes the N-th allocation fail in a ``with`` block, and gives a function that says whether it did."""

_TAKEOVER = Deflate(False, False, 15, 15)
_TEXT, _BINARY, _CONT, _PING = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING


def say(number: int) -> str:
    filler = "üxy"[number % 3] * (number * 37 % 900)
    return f'{{"k":"key {number % 3}","n":{number},"x":"{filler}"}}'


def stream(count: int) -> tuple[bytes, list[str | bytes]]:
    """Frames, and the messages that they are."""
    frames, messages = [], []
    for number in range(count):
        text = say(number)
        payload = text.encode()
        if number % 4 == 3:
            cuts = [payload[:7], payload[7:21], payload[21:]]
            for i, cut in enumerate(cuts):
                frames.append(frame(_TEXT if i == 0 else _CONT, cut, fin=i == 2))
            messages.append(text)
        else:
            frames.append(frame(_TEXT if number % 3 else _BINARY, payload))
            messages.append(text if number % 3 else payload)
        if number % 5 == 2:
            frames.append(frame(_PING, b"%d" % number))
    return b"".join(frames), messages


def again(function: Callable[..., Any], *args: Any) -> Any:
    """What it returns, once there is memory."""
    while True:
        try:
            return function(*args)
        except MemoryError:
            continue


def same(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {str(found)[:500]} instead of {str(wanted)[:500]}")


def adds_up(decoder: FrameDecoder, taken: int) -> None:
    figures = decoder.figures()
    same(figures.delivered, taken, "delivered")
    same(
        figures.delivered + figures.answered + figures.queued_messages + figures.lost.total,
        figures.messages_received,
        "accounts",
    )


def out_of(kind: type[FrameDecoder], how: str) -> Callable[[Fail, int], bool]:
    """Messages out of a decoder of this kind, in one way."""

    def step(fail: Fail, number: int) -> bool:
        data, wanted = stream(24)
        decoder = kind("client")
        decoder.feed(data)
        taken: list[str | bytes] = []
        pieces: list[bytes] = []
        with fail(number) as failed:
            while len(taken) < len(wanted):
                if how == "pop" or (how == "both" and len(taken) % 7 < 4):
                    taken.append(again(decoder.pop))
                elif how == "batches":
                    taken += list(again(decoder.take, 5))
                elif how == "both":
                    batch = again(decoder.take)
                    taken += again(list, batch)
                else:
                    _, fin, payload = again(decoder.pop_fragment)
                    pieces.append(payload)
                    if fin:
                        joined = b"".join(pieces)
                        taken.append(joined if isinstance(wanted[len(taken)], bytes) else joined.decode())
                        pieces.clear()
            frames = again(decoder.controls)
        pings = [payload for _, payload in frames]
        same(taken, wanted, "messages")
        if decoder.violation is None:
            same(pings, [b"%d" % n for n in range(24) if n % 5 == 2], "pings")
        else:
            same(decoder.violation[0], Violation.OUT_OF_MEMORY, "violation")
        adds_up(decoder, len(wanted))
        return bool(failed())

    return step


def encode(fail: Fail, number: int) -> bool:
    """Compressed messages with context takeover: those that fail leave no trace."""
    encoder = FrameEncoder("server", deflate=_TAKEOVER)
    wanted = [say(n) for n in range(12)]
    sent: list[bytes] = []
    with fail(number) as failed:
        for n in range(0, 12, 4):
            sent.extend(again(encoder.encode, _TEXT, text) for text in wanted[n : n + 2])
            sent.append(again(encoder.encode_batch, wanted[n + 2 : n + 4]))
    decoder = FrameDecoder("client", deflate=_TAKEOVER)
    decoder.feed(b"".join(sent))
    same(decoder.violation, None, "violation")
    same(list(decoder.take()), wanted, "messages")
    return bool(failed())


def into(options: dict[str, Any], count: int = 40, *, keys: int = 3) -> Callable[[Fail, int], bool]:
    """Bytes into a decoder: the same comes out as without a fault, or the decoder says that there is no memory."""

    def feed(decoder: FrameDecoder) -> None:
        for n in range(count):
            text = f'{{"k":"{n % keys} a key that is longer than one","n":{n}}}'.encode()
            decoder.feed(frame(_TEXT, deflate(text), rsv=4) if "deflate" in options else frame(_TEXT, text))

    def step(fail: Fail, number: int) -> bool:
        plain = FrameDecoder("client", **options)
        feed(plain)
        decoder = FrameDecoder("client", **options)
        raised = False
        with fail(number) as failed:
            try:
                feed(decoder)
            except MemoryError:
                raised = True
        notices = decoder.notices()
        taken = list(decoder.take())
        adds_up(decoder, len(taken))
        if decoder.violation is not None:
            same(decoder.violation[0], Violation.OUT_OF_MEMORY, "violation")
        elif not raised:
            same(taken, list(plain.take()), "messages")
            if not any(notice[0] == Notice.NOTICES_LOST for notice in notices):
                same(notices, plain.notices(), "notices")
            same(decoder.given_up(), plain.given_up(), "given up")
        return bool(failed())

    return step


def rebuild(fail: Fail, number: int) -> bool:
    payload, sizes = b"abc" * 10, [10, 20]
    parts = (payload, b"".join(n.to_bytes(8, "little") for n in sizes), b"\1\0", bytes(16))
    with fail(number) as failed:
        batch = again(rebuild_batch, *parts)
    same(list(batch), [payload[:10].decode(), payload[10:]], "messages")
    return bool(failed())


STEPS: dict[str, Callable[[Fail, int], bool]] = {
    "encode": encode,
    "rebuild": rebuild,
    **{
        f"{kind.__name__} {how}": out_of(kind, how)
        for kind in (FrameDecoder, PumpedDecoder)
        for how in ("pop", "batches", "both", "fragments")
    },
    "into": into({}),
    "into deflate": into({"deflate": _TAKEOVER}),
    "into Conflate": into({"max_queue": 5, "overflow": Conflate("/k")}),
    "into many keys": into({"overflow": Conflate("/k")}, 300, keys=300),
    "into a function of keys": into({"max_queue": 5, "overflow": Conflate(lambda message: message[7:12])}),
    "into DropOldest": into({"max_queue": 5, "overflow": DropOldest()}),
    "into Disconnect": into({"max_queue": 5, "overflow": Disconnect()}),
    "into Resync": into({"max_queue": 5, "overflow": Resync("/k")}),
}


class _Failing:
    """The N-th allocation of our modules fails, and so many behind it."""

    def __init__(self, shim: Any, memory: Any, times: int, number: int) -> None:
        self._shim, self._memory, self._number, self._times = shim, memory, number, times

    def __enter__(self) -> Callable[[], bool]:
        fired = functools.partial(self._shim.fired, self._memory)
        self._shim.arm(self._memory, self._number, self._times)
        return fired

    def __exit__(self, *exc: object) -> None:
        self._shim.disarm(self._memory)


class _PythonFailing:
    """The N-th allocation of Python fails."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> Callable[[], bool]:
        _testcapi.set_nomemory(self._number - 1, self._number)
        return bool

    def __exit__(self, *exc: object) -> None:
        _testcapi.remove_mem_hooks()


def run(shim: Any, memory: Any, names: Iterable[str]) -> Iterator[str]:
    """Try all steps; yields what is wrong.

    Args:
        shim: Of faults.py.
        memory: The fault.
        names: Of STEPS.
    """
    for name in names:
        step = STEPS[name]
        for times in (1, 25):
            for number in range(1, TRIES_MAX):
                try:
                    if not step(functools.partial(_Failing, shim, memory, times), number):
                        break
                except Exception as exc:
                    yield f"{name}: allocations {number} to {number + times - 1} of ours: {exc!r}"
        for number in range(1, 0 if _testcapi is None else PYTHON_MAX, 7 if "into" in name else 1):
            try:
                step(_PythonFailing, number)
            except MemoryError:
                # Of the step itself.
                continue
            except Exception as exc:
                yield f"{name}: allocation {number} of Python: {exc!r}"
        if live_segments():
            yield f"{name}: {live_segments()} segments are left"
