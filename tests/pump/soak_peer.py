"""A server of `websockets` in a process of its own, for the soak: it floods, checks what it gets, and ends rudely.

It prints its port; its standard input is kept open by whoever has started it, and its end is that of the process. The
path of a request is what to do: a JSON object with ``number`` (of the connection), ``seed``, ``count`` (messages to
send) and ``end``. A clean end has the code 1000 and the number of messages that were sent as its reason. After one of
the other side, the number of the connection and how many messages came are printed. What breaks a promise ends the
process with status 3.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import ssl
import struct
import sys
import threading
import traceback
from typing import Any
from urllib.parse import unquote

import websockets
from websockets.asyncio.server import serve

from tests.pump.numbered import Broken, Sequence, payload_of

CODE_BROKEN = 3
CLOSE_TIMEOUT_S = 2.0


async def flood(ws: Any, count: int, choices: random.Random) -> None:
    burst = choices.choice((1, 20, 200))
    for number in range(count):
        text = payload_of(number)
        # Fragments, binary and text.
        if number % 50 == 49:
            await ws.send([text[:10], text[10:40], text[40:]])
        else:
            await ws.send(text if number % 3 else text.encode())
        if number % burst == 0:
            if choices.randrange(4) == 0:
                await ws.ping()
            await asyncio.sleep(choices.choice((0, 0, 0.001, 0.005)))


async def listen(ws: Any, number: int, choices: random.Random) -> None:
    sequence = Sequence()
    slow = choices.choice((0.0, 0.0, 0.001))
    if choices.randrange(4) == 0:
        # All buffers may fill up on both sides meanwhile.
        await asyncio.sleep(0.5)
    async for message in ws:
        sequence.note(message)
        if slow and sequence.taken % 20 == 0:
            await asyncio.sleep(slow)
    if ws.close_code == 1000 and ws.protocol.close_rcvd_then_sent:
        print(number, sequence.taken, flush=True)


async def end(ws: Any, how: str, count: int, choices: random.Random, flooding: asyncio.Task[None]) -> None:
    if how not in ("close", "stay"):
        await asyncio.wait((flooding,), timeout=choices.uniform(0.0, 0.5))
    match how:
        case "close":
            await flooding
            await ws.close(1000, str(count))
        case "early":
            await ws.close(1001)
        case "abort":
            ws.transport.abort()
        case "reset":
            ws.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            ws.transport.abort()
        case "garbage":
            ws.transport.write(b"\x83\x00" + os.urandom(100))
            await ws.wait_closed()
        case _:
            await ws.wait_closed()


async def handle(ws: Any) -> None:
    plan = json.loads(unquote(ws.request.path[1:]))
    choices = random.Random(plan["seed"])
    flooding = asyncio.create_task(flood(ws, plan["count"], choices))
    listening = asyncio.create_task(listen(ws, plan["number"], choices))
    try:
        await end(ws, plan["end"], plan["count"], choices, flooding)
        await listening
    except (websockets.ConnectionClosed, ConnectionError):
        pass
    except Broken:
        traceback.print_exc()
        print(f"of {plan}", file=sys.stderr, flush=True)
        os._exit(CODE_BROKEN)
    finally:
        flooding.cancel()
        listening.cancel()
        await asyncio.gather(flooding, listening, return_exceptions=True)


def leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """Of the two files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cert", help="a file with a certificate: TLS")
    parser.add_argument("--key", help="a file with its key")
    args = parser.parse_args()
    context = server_context(args.cert, args.key) if args.cert else None
    # Resets are on purpose.
    logging.disable()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    async with serve(
        handle, "127.0.0.1", 0, ssl=context, max_size=None, close_timeout=CLOSE_TIMEOUT_S, ping_interval=0.2
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
