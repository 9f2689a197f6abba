"""One measurement in a process of its own: ``python -m benchmarks.blocked.worker SPEC``, SPEC and result being JSON."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.loops.measure import Stopwatch, rss_bytes

from .contenders import connect, load, loop_factory


def sleep(seconds: float) -> None:
    """Block the thread; the GIL is free."""
    time.sleep(seconds)


def compute(seconds: float) -> None:
    """Python code all the time; the GIL changes hands every 5 ms if somebody wants it."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(1000))


def hold(seconds: float) -> None:
    """A C function that doesn't give the GIL back: no other thread of Python can do anything."""
    ctypes.PyDLL(None).poll(None, 0, int(seconds * 1000))


def price(message: str) -> float:
    """What a hurried consumer takes out of a trade."""
    start = message.find('"p":"') + 5
    return float(message[start : message.find('"', start)])


CONSUMERS = {"counts": None, "price": price, "json": json.loads}
BLOCKS = {"sleep": sleep, "compute": compute, "hold": hold}


@contextlib.contextmanager
def computing(where: str) -> Iterator[None]:
    """Keep computing: in a "thread" of Python, in a "process", which takes a core but not the GIL, or "nowhere"."""
    if where == "thread":
        ended = False

        def run() -> None:
            while not ended:
                sum(range(1000))

        thread = threading.Thread(target=run)
        thread.start()
        yield
        ended = True
        thread.join()
    elif where == "process":
        process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"])
        yield
        process.kill()
        process.wait()
    else:
        yield


async def blocked(spec: dict[str, Any]) -> dict[str, Any]:
    """Block the loop; the peer tells what it saw."""
    begun = False
    try:
        async with connect(spec["contender"], spec["url"]) as sock:
            await sock.send("go")
            begun = True
            # The first pongs find a loop that is free.
            consuming = asyncio.ensure_future(sock.consume(None, False))
            consuming.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.sleep(0.2)
            BLOCKS[spec["how"]](spec["seconds"])
            await asyncio.sleep(0.2)
            await sock.send("stop")
            await consuming
    except Exception:
        # The peer tells what became of a connection that it has seen.
        if not begun:
            raise
    return {}


async def received(spec: dict[str, Any]) -> dict[str, Any]:
    """Take all messages: how many, by which CPU time and wall time."""
    work = CONSUMERS[spec["consumer"]]
    watch = Stopwatch()
    # Beside a thread that computes it takes twice as long, and on free-threaded CPython 3.13 ten seconds.
    load(spec["contender"])
    with computing(spec["computing"]):
        async with connect(spec["contender"], spec["url"]) as sock:
            await sock.send("go")
            watch.start()
            count = await sock.consume(work, spec["batches"])
            watch.stop()
    return {"count": count, "cpu_ns": watch.cpu_ns, "wall_ns": watch.wall_ns}


async def ticked(spec: dict[str, Any]) -> dict[str, Any]:
    """How long messages were under way to a consumer that waits for each."""
    waits: list[int] = []
    async with connect(spec["contender"], spec["url"]) as sock:
        await sock.send("go")
        await sock.consume(lambda message: waits.append(time.monotonic_ns() - int(message)), False)
    return {"waits_ns": waits}


async def trickled(spec: dict[str, Any]) -> dict[str, Any]:
    """Many connections with a trickle and one with a flood."""
    reads: list[int] = []
    waits: list[int] = []
    flooded = 0

    async def trickle(connection: Any) -> None:
        async for batch in connection.batches():
            now = time.monotonic_ns()
            for i, message in enumerate(batch):
                reads.append(batch.received_ns_at(i) - int(message))
                waits.append(now - int(message))

    async def flood(connection: Any) -> None:
        nonlocal flooded
        async for batch in connection.batches():
            flooded += len(batch)

    async with contextlib.AsyncExitStack() as stack:
        # What the first connection brings into the process, it doesn't bring again.
        await stack.enter_async_context(connect(spec["contender"], spec["idle"]))
        before = rss_bytes()
        tasks = []
        for _ in range(spec["connections"]):
            sock = await stack.enter_async_context(connect(spec["contender"], spec["idle"]))
            tasks.append(asyncio.ensure_future(trickle(sock.connection)))
        await asyncio.sleep(0.5)
        # One full collection with so many objects takes 0.1 s, now or in the middle of what is measured.
        gc.collect()
        gc.freeze()
        idle_bytes = (rss_bytes() - before) / spec["connections"]
        timer = await stack.enter_async_context(connect(spec["contender"], spec["timer"]))
        if spec["flood"]:
            sock = await stack.enter_async_context(connect(spec["contender"], spec["flood"]))
            await sock.send("go")
            tasks.append(asyncio.ensure_future(flood(sock.connection)))
            await asyncio.sleep(0.5)
        await timer.send("go")
        await timer.consume(None, False)
        # A thousand closing handshakes aren't measured.
        stack.pop_all()
    return {"reads_ns": reads, "waits_ns": waits, "idle_bytes": idle_bytes, "flooded": flooded}


WORKS = {"blocked": blocked, "received": received, "ticked": ticked, "trickled": trickled}


async def run(spec: dict[str, Any]) -> None:
    print(json.dumps(await WORKS[spec["work"]](spec)), flush=True)
    # What is still open needn't be closed in order.
    os._exit(0)


def main() -> None:
    spec = json.loads(sys.argv[1])
    if spec["cores"]:
        os.sched_setaffinity(0, spec["cores"])
    # That a connection was cut off stands in the table.
    logging.disable()
    with asyncio.Runner(loop_factory=loop_factory(spec["loop"])) as runner:
        runner.run(run(spec))


if __name__ == "__main__":
    main()
