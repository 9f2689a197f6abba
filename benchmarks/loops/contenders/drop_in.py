"""websockets, and what has its API: fastws and picows.websockets. The loops are the same lines of code."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from benchmarks.loops.contenders import Job
from benchmarks.loops.frames import Digest
from benchmarks.loops.measure import Stopwatch, rss_bytes

SEND_BATCH = 100


class Websockets:
    module = "websockets"
    unlimited: ClassVar[dict[str, Any]] = {"max_queue": None}

    def connect(self, job: Job, **options: Any) -> Any:
        return importlib.import_module(self.module).connect(
            job.url,
            ssl=job.context,
            compression="deflate" if job.deflate else None,
            max_size=None,
            ping_interval=None,
            proxy=None,
            **options,
        )

    async def receive(self, job: Job, watch: Stopwatch) -> int:
        async with self.connect(job) as websocket:
            watch.start()
            await websocket.send("go")
            count = await self.consume(websocket)
            watch.stop()
        return count

    async def consume(self, websocket: Any) -> int:
        """Take all messages, in the way that is measured."""
        count = 0
        async for _ in websocket:
            count += 1
        return count

    async def check(self, job: Job, digest: Digest) -> None:
        async with self.connect(job) as websocket:
            await websocket.send("go")
            await self.digest(websocket, digest)

    async def digest(self, websocket: Any, digest: Digest) -> None:
        async for message in websocket:
            digest.add(message)

    async def echo(self, job: Job, watch: Stopwatch) -> list[str]:
        echoes: list[str] = []
        async with self.connect(job) as websocket:
            watch.start()
            for _ in range(job.repeats):
                echoes.clear()
                for message in job.messages:
                    await websocket.send(message)
                    echoes.append(await websocket.recv())
            watch.stop()
        return echoes

    async def send(self, job: Job, watch: Stopwatch) -> str:
        async with self.connect(job) as websocket:
            watch.start()
            for _ in range(job.repeats):
                for message in job.messages:
                    await websocket.send(message)
            answer: str = await websocket.recv()
            watch.stop()
        return answer

    async def hold(self, job: Job, watch: Stopwatch) -> tuple[int, int]:
        async with self.connect(job, **self.unlimited) as websocket:
            before = rss_bytes()
            watch.start()
            await websocket.send("go")
            # The close frame is behind the last message, and a connection closes without waiting for the consumer.
            await websocket.wait_closed()
            watch.stop()
            growth = rss_bytes() - before
            count = await self.consume(websocket)
        return count, growth


class PicowsWebsockets(Websockets):
    module = "picows.websockets"

    def connect(self, job: Job, **options: Any) -> Any:
        # A connection that closes while its queue is full waits in vain for the end of TLS: not 30 s, please.
        return super().connect(job, **options, **({"ssl_shutdown_timeout": 0.01} if job.context else {}))


class Fastws(Websockets):
    module = "fastws"
    unlimited: ClassVar[dict[str, Any]] = {"max_queue": None, "max_queue_bytes": None}


class FastwsBatches(Fastws):
    async def consume(self, websocket: Any) -> int:
        count = 0
        async for batch in websocket.batches():
            for _ in batch:
                count += 1
        return count

    async def digest(self, websocket: Any, digest: Digest) -> None:
        async for batch in websocket.batches():
            for message in batch:
                digest.add(message)


class FastwsCount(Fastws):
    async def consume(self, websocket: Any) -> int:
        count = 0
        async for batch in websocket.batches():
            count += len(batch)
        return count

    async def digest(self, websocket: Any, digest: Digest) -> None:
        async for batch in websocket.batches():
            for index in range(len(batch)):
                digest.add(batch.view(index))


class FastwsSendBatch(Fastws):
    async def send(self, job: Job, watch: Stopwatch) -> str:
        batches = [job.messages[start : start + SEND_BATCH] for start in range(0, len(job.messages), SEND_BATCH)]
        async with self.connect(job) as websocket:
            watch.start()
            for _ in range(job.repeats):
                for batch in batches:
                    await websocket.send_batch(batch)
            answer: str = await websocket.recv()
            watch.stop()
        return answer
