"""A server of `websockets` in a process of its own, for faults.py: it sends, checks what it gets, and tells of both.

It prints its two ports, plain and TLS (0 without a certificate), then a JSON object for each connection that has ended;
the end of its standard input is its own. The path of a request is what to do: a `Plan` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import ssl
import threading
from typing import Any
from urllib.parse import quote, unquote

import websockets
from websockets.asyncio.server import serve

from tests.pump.soak_peer import leave_with_parent, server_context

KEYS = 5
LARGE = 23
"""Each message of so many is large, and each of twice as many larger than one read."""
ASK, ANSWER, BEAT, DONE = ('{"op":"ask"}', '{"op":"answer"}', '{"op":"beat"}', '{"op":"done"}')
FAULTS_OF_OURS = (1002, 1007, 1009)
"""Close codes by which the peer says that what it got makes no sense."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one connection is for.

    Attributes:
        id: Of the connection.
        count: Messages that the peer sends.
        expect: Messages that it wants, before it says that it is done.
        asks: Whether it asks for answers in between.
    """

    id: int
    count: int = 70
    expect: int = 30
    asks: bool = False

    @property
    def path(self) -> str:
        return "/" + quote(json.dumps(dataclasses.asdict(self)))


def payload_of(number: int) -> str:
    """What message ``number`` says; its number can be read back."""
    size = number * 7 % 300
    if number % LARGE == LARGE - 1:
        size = 40_000 if number % (2 * LARGE) < LARGE else 300_000
    return f'{{"k":"k{number % KEYS}","n":{number},"x":"{str(number) * (size // len(str(number)))}"}}'


def number_of(message: str | bytes) -> int:
    """The number of a message.

    Raises:
        ValueError: If it isn't as it was sent.
    """
    text = message if isinstance(message, str) else message.decode()
    number = int(text.split(":", 3)[2].split(",")[0])
    if text != payload_of(number):
        raise ValueError(f"message {number} has {len(text)} characters: {text[:80]!r}")
    return number


async def flood(ws: Any, plan: Plan) -> None:
    for number in range(plan.count):
        text = payload_of(number)
        if number % 10 == 9:
            await ws.send([text[:10], text[10:40], text[40:]])
        else:
            await ws.send(text if number % 3 else text.encode())
        if number % 16 == 5:
            await ws.ping()
        if plan.asks and number % 16 == 7:
            await ws.send(ASK)
        if number % 8 == 0:
            await asyncio.sleep(0.001)


async def listen(ws: Any, plan: Plan, told: dict[str, Any]) -> None:
    async for message in ws:
        if message in (ANSWER, BEAT):
            told["answers" if message == ANSWER else "beats"] += 1
            continue
        number = number_of(message)
        if number != told["got"]:
            raise ValueError(f"message {number} after {told['got']} of them")
        told["got"] += 1
        if told["got"] == plan.expect:
            await ws.send(DONE)


async def handle(ws: Any) -> None:
    plan = Plan(**json.loads(unquote(ws.request.path[1:])))
    told = {"id": plan.id, "got": 0, "answers": 0, "beats": 0, "wrong": None}
    flooding = asyncio.create_task(flood(ws, plan))
    try:
        await listen(ws, plan, told)
    except websockets.ConnectionClosed:
        pass
    except ValueError as exc:
        told["wrong"] = str(exc)
        await ws.close(4000)
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    sent = ws.protocol.close_sent
    if told["wrong"] is None and sent is not None and sent.code in FAULTS_OF_OURS:
        told["wrong"] = f"failed with {sent.code} {sent.reason}"
    print(json.dumps(told), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cert", help="a file with a certificate: TLS as well")
    parser.add_argument("--key", help="a file with its key")
    args = parser.parse_args()
    # Whatever ends a connection is on purpose.
    logging.disable()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    contexts: list[ssl.SSLContext | None] = [None]
    if args.cert:
        contexts.append(server_context(args.cert, args.key))
    async with contextlib.AsyncExitStack() as stack:
        ports = [0, 0]
        for i, context in enumerate(contexts):
            server = await stack.enter_async_context(
                serve(handle, "127.0.0.1", 0, ssl=context, max_size=None, close_timeout=1.0, ping_interval=None)
            )
            ports[i] = server.sockets[0].getsockname()[1]
        print(json.dumps(ports), flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
