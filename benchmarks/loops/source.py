"""The other end of the wire, in a process of its own: sends, echoes, or takes messages. The same for all contenders.

It uses blocking sockets and pre-encoded frames, so that it isn't what limits a contender; it imports no WebSocket
library. What it does with a connection stands in the request's path: ``/burst``, ``/echo`` or ``/sink``, with
``?repeats=n`` and, for a sink that is to look at every byte, ``&check=1``. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import urllib.parse

from benchmarks import messages
from benchmarks.loops.frames import CLOSE, CLOSE_FRAME, Digest, Stream, frame, masked_size
from benchmarks.loops.measure import pin
from benchmarks.loops.works import WORKS, Work

WRITE_BYTES = 256 * 1024
READ_BYTES = 1024 * 1024
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EXTENSIONS = {
    "": "",
    "fresh": "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
    "takeover": "Sec-WebSocket-Extensions: permessage-deflate\r\n",
}


class Peer:
    """One accepted connection after its opening handshake."""

    def __init__(self, connection: socket.socket, deflate: str) -> None:
        self.connection = connection
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        request_line, *lines = head.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(b":", 1) for line in lines)}
        url = urllib.parse.urlsplit(request_line.split()[1].decode())
        self.task = url.path
        self.query = {name: int(value) for name, value in urllib.parse.parse_qsl(url.query)}
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest()).decode()
        connection.sendall(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n{EXTENSIONS[deflate]}\r\n".encode()
        )

    def more(self) -> None:
        data = self.connection.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the contender has gone")
        self.buffer += data

    def frame(self) -> tuple[int, bytes]:
        """The next frame as (opcode, unmasked payload); all that contenders send is unfragmented."""
        while len(self.buffer) < 2:
            self.more()
        length = self.buffer[1] & 0x7F
        start = {126: 4, 127: 10}.get(length, 2)
        if start > 2:
            while len(self.buffer) < start:
                self.more()
            length = int.from_bytes(self.buffer[2:start], "big")
        end = start + 4 + length
        while len(self.buffer) < end:
            self.more()
        opcode = self.buffer[0] & 0x0F
        key = (self.buffer[start : start + 4] * (length // 4 + 1))[:length]
        masked = int.from_bytes(self.buffer[start + 4 : end], "big")
        self.buffer = self.buffer[end:]
        return opcode, (masked ^ int.from_bytes(key, "big")).to_bytes(length, "big")

    def close(self) -> None:
        """Close frame out, then wait for the answer or the end, so that nothing that was sent is lost."""
        self.connection.sendall(CLOSE_FRAME)
        self.connection.recv(READ_BYTES)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.unwrap()


class Source:
    """Serves one workload to one contender at a time."""

    def __init__(self, work: Work, context: ssl.SSLContext | None) -> None:
        self.work = work
        self.context = context
        self.texts = messages.make(work.payload, work.block)
        self.stream = Stream.of(self.texts, work.deflate)
        self.listener = socket.create_server(("127.0.0.1", 0))

    def hello(self) -> dict[str, int]:
        """What a contender's harness must know: the port, and what it is to receive."""
        return {"port": self.listener.getsockname()[1], "wire_bytes": len(self.stream.wire), **self.stream.digest}

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A contender that breaks off is its harness's to report.
            with contextlib.suppress(OSError), connection:
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                with connection:
                    peer = Peer(connection, self.work.deflate)
                    {"/burst": self.burst, "/echo": self.echo, "/sink": self.sink}[peer.task](peer)

    def burst(self, peer: Peer) -> None:
        """Wait for a first message, then send everything as fast as TCP takes it."""
        wire = memoryview(self.stream.wire)
        pieces = [wire[start : start + WRITE_BYTES] for start in range(0, len(wire), WRITE_BYTES)]
        peer.frame()
        for _ in range(peer.query["repeats"]):
            for piece in pieces:
                peer.connection.sendall(piece)
        peer.close()

    def echo(self, peer: Peer) -> None:
        while True:
            opcode, payload = peer.frame()
            peer.connection.sendall(frame(payload, opcode=opcode))
            if opcode == CLOSE:
                return

    def sink(self, peer: Peer) -> None:
        """Take all messages, then answer with what came."""
        if peer.query.get("check"):
            digest = Digest()
            for _ in range(len(self.texts)):
                digest.add(peer.frame()[1])
            answer = digest.result()
        else:
            expected = sum(masked_size(len(text)) for text in self.texts) * peer.query["repeats"]
            received, buffer = len(peer.buffer), bytearray(READ_BYTES)
            while received < expected:
                nbytes = peer.connection.recv_into(buffer)
                if not nbytes:
                    raise ConnectionError("the contender has gone")
                received += nbytes
            answer = {"wire_bytes": received}
        peer.connection.sendall(frame(json.dumps(answer).encode()))
        peer.close()


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--core", type=int)
    parser.add_argument("--certificate", nargs=2, metavar=("CERT", "KEY"))
    args = parser.parse_args()
    pin(args.core)
    work = WORKS[args.work].quick() if args.quick else WORKS[args.work]
    context = None
    if args.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.certificate)
    source = Source(work, context)
    print(json.dumps(source.hello()), flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    source.serve()


if __name__ == "__main__":
    main()
