"""A server in a process of its own that pings, counts pongs, and sends numbered messages; it needs no fastws.

Arguments: seconds between two pings, for how many seconds it has patience, and for TLS the files of a certificate and
of its key, and "renew" for a session ticket or new keys (its own, or of both sides) ahead of each ping. It prints its
port. After the handshake it sends, until the stream ends: a ping each ``interval`` seconds with its number as payload,
then ten text messages, each the number of the ping. To the text message "report" it answers with a message "report "
and, as JSON, the numbers of the pongs in their order and the longest time until one came, and the number of messages
"beat"; to "beat" with the same. Without a "beat" it closes when it has no more patience, with 4004 as OKX does.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import select
import socket
import ssl
import struct
import sys
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(opcode: int, payload: bytes) -> bytes:
    head = bytes([0x80 | opcode])
    return head + (bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))) + payload


def frames_of(data: bytearray) -> list[tuple[int, bytes]]:
    """Take the complete, masked, short frames from the beginning of ``data``."""
    found = []
    while len(data) >= 6 and len(data) >= 6 + (data[1] & 0x7F):
        length = data[1] & 0x7F
        key, payload = data[2:6], data[6 : 6 + length]
        found.append((data[0] & 0x0F, bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))))
        del data[: 6 + length]
    return found


def session_of(connection: ssl.SSLSocket | ssl.SSLObject) -> ctypes.c_void_p:
    """The ``SSL *`` of libssl: a field of the object's struct, behind that of all objects and one pointer."""
    sslobj: object = connection._sslobj  # type: ignore[union-attr]
    session = ctypes.c_void_p.from_address(id(sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    assert session.value is not None
    return ctypes.c_void_p(session.value)


def renew(connection: ssl.SSLSocket, number: int) -> None:
    """RFC 8446 4.6.1 and 4.6.3."""
    import _ssl

    libssl, session = ctypes.CDLL(_ssl.__file__), session_of(connection)
    if number % 3 == 0:
        assert libssl.SSL_new_session_ticket(session) == 1
    else:
        assert libssl.SSL_key_update(session, number % 3 - 1) == 1


def serve(connection: socket.socket, interval: float, patience: float, renews: bool) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
    key = lines[0].split(b":")[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    data = bytearray()
    sent: dict[bytes, float] = {}
    pongs: list[int] = []
    longest = 0.0
    due = time.monotonic()
    number = beats = 0
    over = due + patience
    while True:
        if time.monotonic() >= over:
            connection.sendall(frame(0x8, struct.pack(">H", 4004) + b"No data received"))
            return
        wait = max(0.0, min(due, over) - time.monotonic())
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
        if pending or select.select([connection], [], [], wait)[0]:
            got = connection.recv(65536)
            if not got:
                return
            data += got
            for opcode, payload in frames_of(data):
                if opcode == 0xA:
                    pongs.append(int(payload))
                    longest = max(longest, time.monotonic() - sent.pop(payload))
                elif opcode == 0x9:
                    answer = frame(0xA, payload)
                    connection.sendall(answer)
                elif opcode == 0x1 and payload == b"report":
                    report = {"beats": beats, "pings": number, "longest": longest, "pongs": pongs}
                    connection.sendall(frame(0x1, b"report " + json.dumps(report).encode()[:60000]))
                elif opcode == 0x1 and payload == b"beat":
                    beats += 1
                    over = time.monotonic() + patience
                    connection.sendall(frame(0x1, payload))
                elif opcode == 0x8:
                    connection.sendall(frame(0x8, payload))
                    return
        if time.monotonic() >= due:
            due += interval
            number += 1
            name = str(number).encode()
            sent[name] = time.monotonic()
            if renews:
                assert isinstance(connection, ssl.SSLSocket)
                renew(connection, number)
            connection.sendall(frame(0x9, name) + frame(0x1, name) * 10)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.argv[3:]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*sys.argv[3:5])
            client = context.wrap_socket(client, server_side=True)
        with client:
            serve(client, float(sys.argv[1]), float(sys.argv[2]), "renew" in sys.argv[5:])
