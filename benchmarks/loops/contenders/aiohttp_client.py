"""aiohttp's client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp

from benchmarks.loops.contenders import Job
from benchmarks.loops.frames import Digest
from benchmarks.loops.measure import Stopwatch


class Aiohttp:
    @contextlib.asynccontextmanager
    async def connect(self, job: Job) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                job.url, ssl=job.context or True, compress=15 if job.deflate else 0, max_msg_size=0
            ) as websocket,
        ):
            yield websocket

    async def receive(self, job: Job, watch: Stopwatch) -> int:
        async with self.connect(job) as websocket:
            watch.start()
            await websocket.send_str("go")
            count = 0
            async for _ in websocket:
                count += 1
            watch.stop()
        return count

    async def check(self, job: Job, digest: Digest) -> None:
        async with self.connect(job) as websocket:
            await websocket.send_str("go")
            async for message in websocket:
                digest.add(message.data)

    async def echo(self, job: Job, watch: Stopwatch) -> list[str]:
        echoes: list[str] = []
        async with self.connect(job) as websocket:
            watch.start()
            for _ in range(job.repeats):
                echoes.clear()
                for message in job.messages:
                    await websocket.send_str(message)
                    echoes.append(await websocket.receive_str())
            watch.stop()
        return echoes

    async def send(self, job: Job, watch: Stopwatch) -> str:
        async with self.connect(job) as websocket:
            watch.start()
            for _ in range(job.repeats):
                for message in job.messages:
                    await websocket.send_str(message)
            answer: str = await websocket.receive_str()
            watch.stop()
        return answer
