"""The server that plays a tape: as fast as its receiver takes it, or at a given rate.

    ws://127.0.0.1:PORT/burst?seconds=2
    ws://127.0.0.1:PORT/paced?seconds=2&rate=20000&sample=7

It begins when the receiver sends a message, and closes with 1000 (OK) at the end. What it has sent goes to
``report``, as dictionaries:

- ``{"progress": n}``: messages sent so far, a few times a second
- ``{"sent": n}`` at the end of a connection; if it was paced, also ``"offered"``, messages that were due by then
  (about, if it fell behind), ``"waited_s"``, seconds in which the receiver took nothing, ``"crc32"`` of all payloads,
  and ``"due_ns"``, when each ``sample``-th message was due (`time.monotonic_ns`)
- ``{"lost": reason}``: the receiver has gone before the end
"""

from __future__ import annotations

import asyncio
import collections
import http
import itertools
import math
import time
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..core import FrameEncoder
from ..server import ServerConnection, serve
from ..wire import Opcode
from .tape import Tape

__all__ = ["Feed"]

_BLOCK_BYTES = 256 * 1024
"""Size of a write at full speed: large enough that the feed's own work vanishes beside the kernel's copying."""

_GROUP_MAX = 512
"""Most messages in a write when paced, so that a feed that has fallen behind stays responsive."""

_AHEAD_MAX = 4096
"""Most messages that are encoded before they are due."""

_ENCODE_NS = 10_000
"""More than it takes to encode a message; with less time than that, the feed waits for the next one to be due."""

_LEAD_NS = 20_000_000
"""From the receiver's request to the first message, so that both ends have settled."""

_PROGRESS_S = 0.2

_PARAMETERS = {"/burst": ("seconds",), "/paced": ("seconds", "rate", "sample")}


class Feed:
    """Plays one tape to each connection.

    Args:
        tape: What is sent.
        report: Called with what was sent; see the module.
    """

    def __init__(self, tape: Tape, report: Callable[[dict[str, Any]], None]) -> None:
        self.tape = tape
        self.report = report
        self._progress_due = 0.0
        encoder = FrameEncoder("server")
        self._blocks = [(encoder.encode_batch(block, True), len(block)) for block in tape.blocks(_BLOCK_BYTES)]
        if len(self._blocks) == 1:
            # A short tape is played several times in a write.
            ((frames, count),) = self._blocks
            times = math.ceil(_BLOCK_BYTES / len(frames))
            self._blocks = [(frames * times, count * times)]

    def serve(self, port: int = 0) -> Any:
        """The server, on 127.0.0.1, to be awaited or entered; see `fastws.serve`.

        Args:
            port: 0 is any free one.
        """
        return serve(
            self._handle,
            "127.0.0.1",
            port,
            process_request=self._check,
            compression=None,
            # Enough for one block: the feed then waits for the kernel, not for its own copies.
            write_limit=_BLOCK_BYTES,
        )

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        try:
            _arguments(request.path)
        except ValueError as exc:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"{exc}\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        path, arguments = _arguments(connection.request.path)
        play: Callable[..., Awaitable[dict[str, Any]]] = self._burst if path == "/burst" else self._paced
        try:
            await connection.recv()
            sent = await play(connection, **arguments)
            await connection.close()
        except (ConnectionClosed, ConnectionError) as exc:
            self.report({"lost": str(exc)})
        else:
            self.report(sent)

    def _progress(self, sent: int) -> None:
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + _PROGRESS_S
            self.report({"progress": sent})

    async def _burst(self, connection: ServerConnection, seconds: float) -> dict[str, Any]:
        """Send whole blocks of frames that were encoded beforehand; TCP says when to wait."""
        sent = 0
        end = time.monotonic() + seconds
        for block, count in itertools.cycle(self._blocks):
            if time.monotonic() >= end:
                break
            await self._write(connection, block)
            sent += count
            self._progress(sent)
        return {"sent": sent}

    async def _paced(self, connection: ServerConnection, seconds: float, rate: float, sample: float) -> dict[str, Any]:
        """Send each message when it is due; if the receiver can't keep up, messages wait here and grow old."""
        start_ns = time.monotonic_ns() + _LEAD_NS
        end_ns = start_ns + int(seconds * 1e9)
        frames = self._frames(rate, start_ns, end_ns)
        # Encoded in the pauses: when many are due at once, they are to leave at once.
        ahead = collections.deque(itertools.islice(frames, 1))
        sent, crc, waited_s, dues = 0, 0, 0.0, []
        while ahead and (now_ns := time.monotonic_ns()) < end_ns + _LEAD_NS:
            pause_ns = ahead[0][0] - now_ns
            if pause_ns > 0:
                if pause_ns > _ENCODE_NS and len(ahead) < _AHEAD_MAX and (frame := next(frames, None)):
                    ahead.append(frame)
                else:
                    await asyncio.sleep(pause_ns / 1e9)
                continue
            group: list[bytes] = []
            while ahead and ahead[0][0] <= now_ns and len(group) < _GROUP_MAX:
                due_ns, message, encoded = ahead.popleft()
                group.append(encoded)
                crc = zlib.crc32(message, crc)
                sent += 1
                if not sent % sample:
                    dues.append(due_ns)
                if not ahead:
                    ahead.extend(itertools.islice(frames, 1))
            waited_s += await self._write(connection, b"".join(group))
            self._progress(sent)
        # What couldn't be sent by the end stays unsent, or a slow receiver would never come to an end.
        offered = max(round(rate * seconds), sent) if ahead else sent
        return {"sent": sent, "offered": offered, "waited_s": waited_s, "crc32": crc, "due_ns": dues}

    def _frames(self, rate: float, start_ns: int, end_ns: int) -> Iterator[tuple[int, bytes, bytes]]:
        """(when it is due, message, frame) for all that are due between start and end."""
        encoder = FrameEncoder("server")
        # The exchange's clock is the wall's.
        to_wall_ns = time.time_ns() - time.monotonic_ns()
        for offset_ns, index in self.tape.schedule(rate):
            due_ns = start_ns + offset_ns
            if due_ns >= end_ns:
                return
            message = self.tape.stamp(index, (due_ns + to_wall_ns) // 1000)
            yield due_ns, message, encoder.encode(Opcode.TEXT, message)

    async def _write(self, connection: ServerConnection, frames: bytes) -> float:
        """Send frames; returns the seconds that the receiver kept us waiting."""
        if connection.transport.is_closing():
            raise ConnectionResetError("connection lost")
        connection.transport.write(frames)
        # Also where there is nothing to wait for, pings and the end of the connection want their turn.
        await asyncio.sleep(0)
        if not connection.paused:
            return 0.0
        waiting = time.monotonic()
        await connection.drain()
        return time.monotonic() - waiting


def _arguments(path: str) -> tuple[str, dict[str, float]]:
    """What a request asks for: its path, and its parameters.

    Raises:
        ValueError: If there is no such feed, or a parameter is missing or no positive number.
    """
    url = urllib.parse.urlsplit(path)
    query = dict(urllib.parse.parse_qsl(url.query))
    if url.path not in _PARAMETERS:
        raise ValueError(f"no such feed: {url.path}")
    arguments = {}
    for name in _PARAMETERS[url.path]:
        value = float(query.get(name, "nan"))
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {query.get(name, 'missing')}, must be above 0")
        arguments[name] = value
    return url.path, arguments
