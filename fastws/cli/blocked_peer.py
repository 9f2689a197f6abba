"""The other end of the demo's blocked loops, in a process of its own: it feeds, pings, and cuts off who doesn't answer.

Each connection names itself in its path and begins with a message of its own; then it gets ``rate`` messages per
second for ``seconds``, evenly, fewer if they were more than ``bytes_per_s``, and a ping each ``ping_every_s``. Whoever
leaves one unanswered for ``ping_timeout_s`` is failed with 1011, as keepalive of ``websockets`` does it; the others get
1000 at the end. Answers:

- ``{"port", "rate"}``, then for each connection, once it is closed,
- ``{"receiver", "start_ns", "due", "sent", "pings", "answered", "slowest_s", "cut_off", "lost"}``: messages of the
  whole time and those that were sent, pings sent and answered, the longest wait for a pong, and whether it was cut
  off; ``lost`` is why it ended otherwise, or None. Messages are due from ``start_ns`` on (`time.monotonic_ns`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from ..core import FrameEncoder
from ..market.process import answer, task
from ..market.tape import Tape
from ..server import ServerConnection, serve
from ..wire import Opcode

_MESSAGES = 4096
"""Of the simulated exchange."""

_GROUP_S = 0.005
"""Between two writes; ages can't be told more exactly."""

_RATE_MIN = 10.0
"""There is something to block in the middle of."""

_CLOSE_S = 30.0
"""For the closing handshake with who is still blocked."""


class _Pinger:
    """Pings one connection until it is cancelled, or cuts it off.

    Attributes:
        pings: Pings sent.
        waits_s: How long answered ones took.
        cut_off: Whether it has.
    """

    def __init__(self, connection: ServerConnection, every_s: float, timeout_s: float) -> None:
        self._connection = connection
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._waiting: dict[int, float] = {}
        self.pings = 0
        self.waits_s: list[float] = []
        self.cut_off = False

    async def run(self) -> None:
        started = time.monotonic()
        while not self._is_late():
            self._waiting[self.pings] = time.monotonic()
            pong = asyncio.ensure_future(await self._connection.ping(b"%d" % self.pings))
            pong.add_done_callback(functools.partial(self._answered, self.pings))
            self.pings += 1
            await asyncio.sleep(max(0.0, started + self.pings * self._every_s - time.monotonic()))
        self.cut_off = True
        async with self._connection.send_context():
            self._connection.protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")

    def settled(self) -> bool:
        """Whether there is no pong to wait for."""
        return not self._waiting or self._is_late()

    def _is_late(self) -> bool:
        return time.monotonic() - min(self._waiting.values(), default=time.monotonic()) > self._timeout_s

    def _answered(self, number: int, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None and not self.cut_off:
            self.waits_s.append(time.monotonic() - self._waiting.pop(number))


class _Venue:
    """Serves any number of connections.

    Args:
        tape: What it plays, over and over.
        given: The task; see the module.

    Attributes:
        rate: Messages per second.
    """

    def __init__(self, tape: Tape, given: dict[str, Any]) -> None:
        encoder = FrameEncoder("server")
        self._frames = [encoder.encode(Opcode.TEXT, message) for message in tape.messages]
        mean = sum(map(len, self._frames)) / len(self._frames)
        self.rate: float = max(min(given["rate"], given["bytes_per_s"] / mean), _RATE_MIN)
        self._seconds: float = given["seconds"]
        self._pings: tuple[float, float] = given["ping_every_s"], given["ping_timeout_s"]

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        await connection.recv()
        start = time.monotonic()
        sent, total, lost = 0, int(self._seconds * self.rate), None
        frames = itertools.cycle(self._frames)
        pinger = _Pinger(connection, *self._pings)
        pinging = asyncio.create_task(pinger.run())
        try:
            while sent < total and not pinger.cut_off and not pinging.done():
                await asyncio.sleep(_GROUP_S)
                due = min(int((time.monotonic() - start) * self.rate), total)
                if due > sent and not pinger.cut_off:
                    connection.transport.write(b"".join(itertools.islice(frames, due - sent)))
                    sent = due
            if not pinger.cut_off:
                pinging.cancel()
                await asyncio.wait([pinging])
                # Its last pongs come in the next moments.
                while not pinger.settled():  # noqa: ASYNC110
                    await asyncio.sleep(_GROUP_S)
            await connection.close()
            await connection.wait_closed()
        except (ConnectionClosed, ConnectionError) as exc:
            lost = str(exc)
        finally:
            pinging.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pinging
        if connection.protocol.close_sent is None:
            lost = lost or "the connection was lost"
        answer(
            {
                "receiver": connection.request.path.strip("/"),
                "start_ns": int(start * 1e9),
                "due": total,
                "sent": sent,
                "pings": pinger.pings,
                "answered": len(pinger.waits_s),
                "slowest_s": max(pinger.waits_s, default=None),
                "cut_off": pinger.cut_off,
                "lost": lost,
            }
        )


async def _serve(given: dict[str, Any]) -> None:
    recording = given["recording"]
    tape = Tape.simulated(_MESSAGES) if recording is None else Tape.recorded(recording)
    venue = _Venue(tape, given)
    server = await serve(
        venue.handle,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        close_timeout=given["seconds"] + _CLOSE_S,
        receive="loop",
    )
    answer({"port": server.sockets[0].getsockname()[1], "rate": venue.rate})
    await server.serve_forever()


def _main() -> None:
    given = task()
    # What becomes of a connection is in the answers.
    logging.disable()
    asyncio.run(_serve(given))


if __name__ == "__main__":
    _main()
