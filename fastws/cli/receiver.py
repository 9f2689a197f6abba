"""One receiver of the demo, in a process of its own: first as fast as it can, then at the feed's rate.

Nothing in its loops depends on the library: websockets and fastws run the same lines. It answers twice:

- ``{"messages", "cpu_s", "wall_s", "memory_bytes"}`` for the burst: user and system time of this process, and growth
  of its peak memory, from asking for the first message to the end of the connection
- ``{"messages", "crc32", "seen_ns"}`` for the paced part: CRC-32 of all payloads in order, and when each ``sample``-th
  message was in the hands of the loop (`time.monotonic_ns`)

or with ``{"error": reason}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time
import zlib
from typing import Any

from ..market.process import answer, task


def loop_factory(name: str) -> Any:
    """Of "asyncio" or "uvloop"; None is the default."""
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def _connect(name: str, url: str) -> Any:
    library: Any
    if name == "websockets":
        import websockets as library
    else:
        import fastws as library
    # Queues and buffers are what each library chooses; the size of recorded messages is the recording's.
    return library.connect(url, compression=None, max_size=None, proxy=None)


# As fast as it can


async def _count(websocket: Any) -> int:
    count = 0
    async for _ in websocket:
        count += 1
    return count


async def _count_batches(websocket: Any) -> int:
    count = 0
    async for batch in websocket.batches():
        for _ in batch:
            count += 1
    return count


async def _burst(name: str, url: str) -> dict[str, Any]:
    count = _count_batches if name == "batches" else _count
    async with _connect(name, url) as websocket:
        _forget_peak()
        memory, cpu, wall = _peak_bytes(), _cpu_s(), time.perf_counter()
        await websocket.send("go")
        messages = await count(websocket)
        wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
    return {"messages": messages, "cpu_s": cpu, "wall_s": wall, "memory_bytes": _peak_bytes() - memory}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _forget_peak() -> None:
    """Linux: the peak becomes what is in memory now."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as references:
        references.write("5")


def _peak_bytes() -> int:
    """The most memory that was resident so far."""
    try:
        # ru_maxrss of Linux begins with what the parent had when it forked.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


# At the feed's rate


class _Watch:
    """Looks at every message: its bytes count towards the CRC, and for some the time is noted."""

    def __init__(self, sample: int) -> None:
        self.sample = sample
        self.messages = self.crc32 = 0
        self.seen_ns: list[int] = []

    def see(self, message: str) -> None:
        self.messages += 1
        if not self.messages % self.sample:
            self.seen_ns.append(time.monotonic_ns())
        self.crc32 = zlib.crc32(message.encode(), self.crc32)

    def result(self) -> dict[str, Any]:
        return {"messages": self.messages, "crc32": self.crc32, "seen_ns": self.seen_ns}


async def _paced(name: str, url: str, sample: int) -> dict[str, Any]:
    watch = _Watch(sample)
    async with _connect(name, url) as websocket:
        await websocket.send("go")
        if name == "batches":
            async for batch in websocket.batches():
                for message in batch:
                    watch.see(message)
        else:
            async for message in websocket:
                watch.see(message)
    return watch.result()


async def _receive(given: dict[str, Any]) -> None:
    name, url = given["receiver"], f"ws://127.0.0.1:{given['port']}"
    seconds, rate, sample = given["seconds"], given["rate"], given["sample"]
    answer(await _burst(name, f"{url}/burst?seconds={seconds}"))
    answer(await _paced(name, f"{url}/paced?seconds={seconds}&rate={rate}&sample={sample}", sample))


def _main() -> None:
    given = task()
    try:
        with asyncio.Runner(loop_factory=loop_factory(given["loop"])) as runner:
            runner.run(_receive(given))
    except Exception as exc:
        answer({"error": f"{type(exc).__name__}: {exc}"})


if __name__ == "__main__":
    _main()
