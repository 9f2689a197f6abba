"""The other end, in a process of its own, by blocking sockets: it pings, floods, or sends messages that carry the time.

What it does with a connection stands in the request's path, and begins with the first message on it:

- ``/pings?period_ms=50&cutoff_ms=N``: pings, and notes when each pong comes, until a second message, the end, or until
  a pong is missing for so long: then it hangs up, as servers do.
- ``/flood?ms=N``: trades as fast as TCP takes them, then a close frame. ``/burst?blocks=N``: so many blocks of them.
- ``/paced?rate=N&ms=T``: so many trades per second, every 5 ms a share of them, then a close frame.
- ``/ticks?count=N``: messages with ``time.monotonic_ns()`` after random pauses of 1 to 5 ms, then a close frame.
- ``/idle``, then ``/trickle?connections=N&ms=T``: each of so many idle ones gets a message a second with the time.

For the first it prints what came of it as a line of JSON. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import threading
import time

from benchmarks import messages
from benchmarks.loops.frames import Stream, frame
from benchmarks.loops.source import WRITE_BYTES, Peer, end_with_stdin

BLOCK = 20_000
TEXT, PING, PONG = 0x1, 0x9, 0xA
PACE_MS = 5


class Venue:
    """Serves any number of connections, a thread each."""

    def __init__(self) -> None:
        wire = memoryview(Stream.of(messages.trades(BLOCK), "").wire)
        self.pieces = [wire[start : start + WRITE_BYTES] for start in range(0, len(wire), WRITE_BYTES)]
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2000)
        self.trickling: list[Peer] = []

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.attend, args=(connection,), daemon=True).start()

    def attend(self, connection: socket.socket) -> None:
        # A contender that breaks off is its harness's to report.
        with contextlib.suppress(OSError), connection:
            peer = Peer(connection, "")
            getattr(self, peer.task.strip("/"))(peer)

    def pings(self, peer: Peer) -> None:
        period_s, cutoff_s = peer.query["period_ms"] / 1e3, peer.query["cutoff_ms"] / 1e3
        peer.frame()
        sent: list[float] = []
        waits: list[float | None] = []
        oldest = 0
        ended = "by the contender"
        next_ping = time.perf_counter()
        try:
            while True:
                now = time.perf_counter()
                if now >= next_ping:
                    sent.append(time.perf_counter())
                    waits.append(None)
                    peer.connection.sendall(frame(struct.pack("!I", len(sent) - 1), opcode=PING))
                    next_ping += period_s
                if oldest < len(sent) and now - sent[oldest] > cutoff_s:
                    ended = "cut off"
                    break
                if not peer.buffer:
                    ready, _, _ = select.select([peer.connection], [], [], max(0, next_ping - time.perf_counter()))
                    if not ready:
                        continue
                    peer.more()
                arrived = time.perf_counter()
                opcode, payload = peer.frame()
                if opcode != PONG:
                    break
                number = struct.unpack("!I", payload)[0]
                waits[number] = arrived - sent[number]
                while oldest < len(sent) and waits[oldest] is not None:
                    oldest += 1
        except OSError as exc:
            ended = f"{exc}"
        # The last ping may still be under way.
        if waits and waits[-1] is None and ended == "by the contender":
            waits.pop()
        print(json.dumps({"ended": ended, "waits_s": waits}), flush=True)

    def flood(self, peer: Peer) -> None:
        peer.frame()
        until = time.perf_counter() + peer.query["ms"] / 1e3
        while time.perf_counter() < until:
            # A block is whole, so that its number of messages is known.
            for piece in self.pieces:
                peer.connection.sendall(piece)
        peer.close()

    def burst(self, peer: Peer) -> None:
        peer.frame()
        for _ in range(peer.query["blocks"]):
            for piece in self.pieces:
                peer.connection.sendall(piece)
        peer.close()

    def paced(self, peer: Peer) -> None:
        size = peer.query["rate"] * PACE_MS // 1000
        frames = [frame(trade.encode(), opcode=TEXT) for trade in messages.trades(BLOCK)]
        shares = [b"".join(frames[start : start + size]) for start in range(0, BLOCK - size + 1, size)]
        peer.frame()
        begun = time.perf_counter()
        for i in range(peer.query["ms"] // PACE_MS):
            time.sleep(max(0.0, begun + i * PACE_MS / 1e3 - time.perf_counter()))
            peer.connection.sendall(shares[i % len(shares)])
        peer.close()

    def ticks(self, peer: Peer) -> None:
        peer.frame()
        for _ in range(peer.query["count"]):
            time.sleep(random.uniform(0.001, 0.005))
            peer.connection.sendall(frame(b"%d" % time.monotonic_ns()))
        peer.close()

    def idle(self, peer: Peer) -> None:
        """One of those that get a trickle."""
        self.trickling.append(peer)
        try:
            while True:
                peer.frame()
        finally:
            self.trickling.remove(peer)

    def trickle(self, peer: Peer) -> None:
        while len(self.trickling) < peer.query["connections"]:
            time.sleep(0.01)
        peer.frame()
        pause_s = 1 / len(self.trickling)
        begun = time.perf_counter()
        for i in range(int(peer.query["ms"] / 1e3 / pause_s)):
            time.sleep(max(0.0, begun + i * pause_s - time.perf_counter()))
            connection = self.trickling[i % len(self.trickling)].connection
            connection.sendall(frame(b"%d" % time.monotonic_ns()))
        peer.close()


def main() -> None:
    venue = Venue()
    print(json.dumps({"port": venue.listener.getsockname()[1], "block": BLOCK}), flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    venue.serve()


if __name__ == "__main__":
    main()
