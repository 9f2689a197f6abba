"""The floor: a blocking socket that takes or gives the same bytes and doesn't look at them."""

from __future__ import annotations

import base64
import os
import socket
import urllib.parse

from benchmarks.loops.contenders import Job
from benchmarks.loops.frames import CLOSE, Stream, frame
from benchmarks.loops.measure import Stopwatch

READ_BYTES = 256 * 1024
WRITE_BYTES = 64 * 1024


class Raw:
    def connect(self, job: Job) -> socket.socket:
        url = urllib.parse.urlsplit(job.url)
        assert url.hostname is not None
        connection = socket.create_connection((url.hostname, url.port or 80))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if job.context is not None:
            connection = job.context.wrap_socket(connection, server_hostname=url.hostname)
        key = base64.b64encode(os.urandom(16)).decode()
        offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if job.deflate else ""
        connection.sendall(
            f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        return connection

    async def receive(self, job: Job, watch: Stopwatch) -> int:
        """Return the bytes received: it doesn't know of messages."""
        left, buffer = job.wire_bytes, bytearray(READ_BYTES)
        with self.connect(job) as connection:
            watch.start()
            connection.sendall(frame(b"go", masked=True))
            while left > 0:
                nbytes = connection.recv_into(buffer)
                if not nbytes:
                    break
                left -= nbytes
            watch.stop()
        # The close frame may have come with the last bytes.
        return job.wire_bytes - max(left, 0)

    async def echo(self, job: Job, watch: Stopwatch) -> list[str]:
        echoes: list[str] = []
        frames = [frame(message.encode(), masked=True) for message in job.messages]
        with self.connect(job) as connection:
            watch.start()
            for _ in range(job.repeats):
                echoes.clear()
                for data in frames:
                    connection.sendall(data)
                    echoes.append(connection.recv(READ_BYTES)[-len(job.messages[0]) :].decode())
            watch.stop()
            connection.sendall(frame(b"", opcode=CLOSE, masked=True))
        return echoes

    async def send(self, job: Job, watch: Stopwatch) -> str:
        wire = memoryview(Stream.of(job.messages, "", masked=True).wire)
        pieces = [wire[start : start + WRITE_BYTES] for start in range(0, len(wire), WRITE_BYTES)]
        with self.connect(job) as connection:
            watch.start()
            for _ in range(job.repeats):
                for piece in pieces:
                    connection.sendall(piece)
            answer = connection.recv(READ_BYTES)
            watch.stop()
        return answer[2 : 2 + answer[1]].decode()
