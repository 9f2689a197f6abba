"""What `fastws.Watchdog` costs: processor time while nothing happens, and messages per second. Prints a table.

python -m benchmarks.watchdog [--seconds 3] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import fastws

_CONNECTIONS = (0, 1, 20)
_MESSAGES = 100_000
_BURST = 1_000


@contextlib.asynccontextmanager
async def connected(count: int) -> AsyncIterator[tuple[list[Any], list[Any]]]:
    """(client connections, those of the server)."""
    accepted: list[Any] = []
    done = asyncio.Event()

    async def handler(ws: Any) -> None:
        accepted.append(ws)
        await done.wait()

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(fastws.serve(handler, "127.0.0.1", 0, compression=None))
        stack.callback(done.set)
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        clients = [
            await stack.enter_async_context(fastws.connect(uri, compression=None, ping_interval=None))
            for _ in range(count)
        ]
        yield clients, accepted


async def idle(clients: list[Any], seconds: float) -> float:
    """Processor milliseconds for each second."""
    before = time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - before) * 1000 / seconds


async def throughput(client: Any, server: Any) -> float:
    """Messages per second of processor time, sending included."""
    burst = ["x" * 150] * _BURST
    before = time.process_time()
    for _ in range(_MESSAGES // _BURST):
        await server.send_batch(burst)
        for _ in range(_BURST):
            await client.recv()
    return _MESSAGES / (time.process_time() - before)


async def watched(clients: list[Any], on: bool, measure: Callable[[], Awaitable[float]]) -> float:
    if not on:
        return await measure()
    async with fastws.Watchdog() as watchdog:
        for client in clients:
            watchdog.watch(client)
        await asyncio.sleep(0.2)
        return await measure()


async def main(seconds: float, rounds: int) -> None:
    print(f"fastws {fastws.__version__}, {fastws.IMPLEMENTATION}")
    print("| idle, connections | off, CPU ms/s | on, CPU ms/s |\n|---:|---:|---:|")
    for count in _CONNECTIONS:
        async with connected(count) as (clients, _):
            off, on = [await watched(clients, state, lambda: idle(clients, seconds)) for state in (False, True)]
        print(f"| {count} | {off:.2f} | {on:.2f} |")
    ratios = []
    async with connected(1) as ((client,), (server,)):
        await throughput(client, server)
        # In pairs, each time in the other order: what else the machine does changes slowly.
        for index in range(rounds):
            figures = {}
            for on in (False, True) if index % 2 else (True, False):
                figures[on] = await watched([client], on, lambda: throughput(client, server))
            ratios.append(figures[True] / figures[False])
    low, _, high = statistics.quantiles(ratios, n=4)
    print(
        f"\nmessages per CPU second, on / off: median {statistics.median(ratios):.3f} (quartiles {low:.3f}, {high:.3f})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.rounds))
