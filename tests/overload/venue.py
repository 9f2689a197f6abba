"""An exchange that feeds one message after another, pings, and cuts off who doesn't answer. A process of its own.

It uses sockets and threads of the standard library only, and goes on whatever becomes of the consumer:

    python -m overload.venue          # from tests/; prints its port, then a line of JSON for each connection

A connection says what it wants in its query: see `Load`. Messages are due at a steady rate; what the kernel doesn't
take waits here, in order, and grows old. Pings wait in the same line, as they do in a real server, so the deadline
counts from when a ping was due. All numbers count up: ``n`` for the connection; ``U``, ``u`` and ``pu`` for each
stream.
"""

from __future__ import annotations

import array
import base64
import bisect
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import select
import socket
import struct
import threading
import time
import urllib.parse
from typing import Any

__all__ = ["KINDS", "Load", "Venue"]

KINDS = ("bookTicker", "trade", "depth")

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_TICK_S = 0.004
_HANDSHAKE_S = 5.0
"""How long a consumer may take at the end to read what is left, and to answer the close frame."""

_TEMPLATES = {
    "bookTicker": (
        b'{"stream":"%(stream)b","data":{"e":"bookTicker","E":%%d,"n":%%d,"U":%%d,"u":%%d,"pu":%%d,"s":"%(symbol)b",'
        b'"b":"97312.4","B":"0.412","a":"97312.5","A":"1.870"}}'
    ),
    "trade": (
        b'{"stream":"%(stream)b","data":{"e":"trade","E":%%d,"n":%%d,"U":%%d,"u":%%d,"pu":%%d,"s":"%(symbol)b",'
        b'"p":"97312.5","q":"0.031","X":"MARKET","m":true}}'
    ),
    "depth": (
        b'{"stream":"%(stream)b","data":{"e":"depthUpdate","E":%%d,"n":%%d,"U":%%d,"u":%%d,"pu":%%d,"s":"%(symbol)b",'
        b'"b":[["97312.4","0.412"],["97311.9","0.000"]],"a":[["97312.5","1.870"]]}}'
    ),
}


@dataclasses.dataclass(frozen=True)
class Load:
    """What the venue does to a connection.

    Attributes:
        name: Comes back in the report.
        rate: Messages per second.
        seconds: How long.
        keys: Streams, a third of each kind; a message is of any of them, all alike.
        ping_s: Time between pings.
        deadline_s: A ping unanswered for so long is the end.
        buffer_bytes: SO_SNDBUF of the venue; the consumer takes the same for its SO_RCVBUF.
    """

    name: str = "load"
    rate: float = 2000.0
    seconds: float = 1.0
    keys: int = 270
    ping_s: float = 0.1
    deadline_s: float = 0.5
    buffer_bytes: int = 16 * 1024

    @property
    def path(self) -> str:
        return "/?" + urllib.parse.urlencode(dataclasses.asdict(self))

    @classmethod
    def of(cls, path: str) -> Load:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        return cls(**{name: kinds[name](value) for name, value in query.items()})


class Venue:
    """Serves one connection.

    Args:
        sock: Its socket, after the handshake.
        load: What it wants.
        rest: What it sent behind the handshake.
    """

    def __init__(self, sock: socket.socket, load: Load, rest: bytes) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._load = load
        self._read = bytearray(rest)
        self._out = bytearray()
        self._taken = 0  # Bytes that the kernel has taken.
        self._given = 0  # Bytes that were put into _out.
        self._ends = array.array("Q")  # Where each message ends,
        self._bounds = array.array("Q", [0])  # and each frame.
        rng = random.Random(20240229)
        self._streams = [self._template(number) for number in range(load.keys)]
        self._order = rng.choices(range(load.keys), k=4096)
        self._sequences = [0] * load.keys
        self._started = 0.0
        self._pinged: dict[bytes, float] = {}
        self._pings = self._pongs = 0
        self._pong_max_s = 0.0
        self._closed: tuple[int | None, str] | None = None
        self._gone = self._ending = False

    @staticmethod
    def _template(number: int) -> bytes:
        symbol = f"S{number // 3:03d}USDT"
        kind = KINDS[number % 3]
        return _TEMPLATES[kind] % {b"stream": f"{symbol.lower()}@{kind}".encode(), b"symbol": symbol.encode()}

    def run(self) -> dict[str, Any]:
        """Play to the end; returns the report."""
        end, after_s = self._play()
        return {
            "name": self._load.name,
            "end": end,
            "after_s": round(after_s, 3),
            "code": None if self._closed is None else self._closed[0],
            "reason": "" if self._closed is None else self._closed[1],
            "made": len(self._ends),
            "sent": self._sent,
            "pings": self._pings,
            "pongs": self._pongs,
            "pong_max_s": round(self._pong_max_s, 4),
        }

    @property
    def _sent(self) -> int:
        """Messages that the kernel has taken to their last byte."""
        return bisect.bisect_right(self._ends, self._taken)

    def _play(self) -> tuple[str, float]:
        load, started = self._load, time.monotonic()
        self._started = started
        end = started + load.seconds
        ping_at = started + load.ping_s
        while True:
            now = time.monotonic()
            self._make(min(now, end))
            if now >= ping_at:
                ping_at += load.ping_s
                self._ping(now)
            self._work(_TICK_S)
            if self._closed is not None:
                code = self._closed[0]
                self._say_last(b"" if code is None else struct.pack("!H", code))
                return "closed by consumer", now - started
            if self._gone:
                return "gone", now - started
            if self._late(now):
                self._say_last(struct.pack("!H", 1011) + b"keepalive ping timeout")
                return "no pong", now - started
            if now >= end and not self._out:
                return self._finish(started)
            if now >= end + _HANDSHAKE_S:
                return "unread", now - started

    def _make(self, until: float) -> None:
        """Put what is due by now in line."""
        due = round((until - self._started) * self._load.rate)
        frames = []
        place = self._given
        for n in range(len(self._ends) + 1, due + 1):
            number = self._order[n % len(self._order)]
            sequence = self._sequences[number]
            step = 1 + n % 3
            self._sequences[number] = sequence + step
            made_ns = int((self._started + n / self._load.rate) * 1e9)
            payload = self._streams[number] % (made_ns, n, sequence + 1, sequence + step, sequence)
            data = _frame(_TEXT, payload)
            frames.append(data)
            place += len(data)
            self._ends.append(place)
            self._bounds.append(place)
        self._out += b"".join(frames)
        self._given = place

    def _put(self, data: bytes) -> None:
        """Put a control frame in line."""
        self._out += data
        self._given += len(data)
        self._bounds.append(self._given)

    def _ping(self, now: float) -> None:
        payload = b"%d" % self._pings
        self._pings += 1
        self._pinged[payload] = now
        self._put(_frame(_PING, payload))

    def _late(self, now: float) -> bool:
        return any(now - pinged > self._load.deadline_s for pinged in self._pinged.values())

    def _work(self, seconds: float) -> None:
        """Write and read what is possible, for some time."""
        until = time.monotonic() + seconds
        while not self._gone:
            left = until - time.monotonic()
            readable, writable, _ = select.select([self._sock], [self._sock] if self._out else [], [], max(0.0, left))
            try:
                if writable:
                    self._flush()
                if readable:
                    data = self._sock.recv(65536)
                    self._gone = not data
                    self._read += data
                    self._take_frames()
            except BlockingIOError:
                pass
            except OSError:
                self._gone = True
            if left <= 0:
                return
            if self._out and writable:
                # The kernel has room for part of it only: don't spin.
                time.sleep(0.001)

    def _flush(self) -> None:
        if self._out:
            size = self._sock.send(memoryview(self._out)[:65536])
            self._taken += size
            del self._out[:size]

    def _take_frames(self) -> None:
        data = self._read
        while len(data) >= 6:
            size = data[1] & 0x7F
            start = 6
            if size == 126:
                start, size = 8, int.from_bytes(data[2:4], "big")
            if len(data) < start + size:
                return
            key = data[start - 4 : start]
            payload = bytes(byte ^ key[place % 4] for place, byte in enumerate(data[start : start + size]))
            opcode = data[0] & 0x0F
            del data[: start + size]
            if opcode == _PONG and not self._ending and (pinged := self._pinged.pop(payload, None)) is not None:
                self._pongs += 1
                self._pong_max_s = max(self._pong_max_s, time.monotonic() - pinged)
            elif opcode == _PING:
                self._put(_frame(_PONG, payload))
            elif opcode == _CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if payload else None
                self._closed = code, payload[2:].decode()

    def _say_last(self, close: bytes) -> None:
        """Send a close frame behind the frame that is under way; what waits behind that is dropped."""
        self._ending = True
        bound = self._bounds[bisect.bisect_left(self._bounds, self._taken)]
        del self._out[bound - self._taken :]
        self._out += _frame(_CLOSE, close)
        until = time.monotonic() + _HANDSHAKE_S
        while not self._gone and time.monotonic() < until:
            if not self._out:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            self._work(_TICK_S)

    def _finish(self, started: float) -> tuple[str, float]:
        """All is sent: a normal end."""
        self._out += _frame(_CLOSE, struct.pack("!H", 1000))
        until = time.monotonic() + _HANDSHAKE_S
        while not self._gone and self._closed is None and time.monotonic() < until:
            self._work(_TICK_S)
        return ("finished" if self._closed is not None else "no answer to close"), time.monotonic() - started


def _frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) < 126:
        return bytes((0x80 | opcode, len(payload))) + payload
    return struct.pack("!BBH", 0x80 | opcode, 126, len(payload)) + payload


def _serve(sock: socket.socket, lock: threading.Lock) -> None:
    with sock:
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                return
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        load = Load.of(lines[0].split()[1].decode())
        (key,) = (line.split(b":", 1)[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, load.buffer_bytes)
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        report = Venue(sock, load, rest).run()
    line = json.dumps(report) + "\n"
    with lock:
        os.write(1, line.encode())


def main() -> None:
    lock = threading.Lock()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=_serve, args=(sock, lock), daemon=True).start()


if __name__ == "__main__":
    main()
