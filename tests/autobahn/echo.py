"""The echo client and server that Autobahn|Testsuite drives; started by run.py in a process of its own.

Usage: python echo.py client|server --module fastws|websockets --port PORT --agent NAME [--loop uvloop] [--batches]
    [--receive thread]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
from types import ModuleType
from typing import Any

HOST = "127.0.0.1"
MAX_SIZE = 32 << 20  # 9.1.6 and 9.2.6 send 16 MiB


class Echo:
    """Sends back what it receives, message by message or batch by batch."""

    def __init__(self, ws: ModuleType, batches: bool, receive: str) -> None:
        self.ws = ws
        self.batches = batches
        self.receive = receive

    async def __call__(self, connection: Any) -> None:
        if self.receive == "thread" and connection.stats.receive != "thread":
            raise RuntimeError("no receive thread has taken the connection over")
        try:
            if self.batches:
                async for batch in connection.batches():
                    await connection.send_batch(batch)
            else:
                async for message in connection:
                    await connection.send(message)
        except self.ws.ConnectionClosed:
            pass


async def run_client(ws: ModuleType, echo: Echo, port: int, agent: str) -> None:
    """Ask wstest's server how many cases there are, and go through them."""
    base = f"ws://{HOST}:{port}"
    async with ws.connect(f"{base}/getCaseCount") as connection:
        count = json.loads(await connection.recv())
    for case in range(1, count + 1):
        async with ws.connect(
            f"{base}/runCase?case={case}&agent={agent}", max_size=MAX_SIZE, ping_interval=None, proxy=None
        ) as connection:
            await echo(connection)
    # Writing the report of all cases takes wstest a while.
    async with ws.connect(f"{base}/updateReports?agent={agent}", open_timeout=120, close_timeout=120, proxy=None) as c:
        await c.wait_closed()


async def run_server(ws: ModuleType, echo: Echo, port: int, agent: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with ws.serve(echo, HOST, port, max_size=MAX_SIZE, ping_interval=None, server_header=agent):
        print("ready", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["client", "server"])
    parser.add_argument("--module", default="fastws")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--receive", choices=["loop", "thread"], default="loop", help="who receives in fastws")
    args = parser.parse_args()
    os.environ["FASTWS_RECEIVE"] = args.receive
    # The library logs the peer's mistakes as errors of a connection handler only if we don't expect them.
    logging.basicConfig(level=logging.WARNING)
    ws = importlib.import_module(args.module)
    run = run_client if args.role == "client" else run_server
    loop_factory = importlib.import_module(args.loop).new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run(ws, Echo(ws, args.batches, args.receive), args.port, args.agent))


if __name__ == "__main__":
    main()
