"""The core of picows: callbacks for frames, from which the user makes messages."""

from __future__ import annotations

import asyncio
from typing import Any

import picows

from benchmarks.loops.contenders import Job
from benchmarks.loops.frames import Digest
from benchmarks.loops.measure import Stopwatch

TEXT, CLOSE = picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE


class Listener(picows.WSListener):
    """Counts text messages and makes a str of each."""

    def __init__(self) -> None:
        self.count = 0

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == TEXT:
            frame.get_payload_as_utf8_text()
            self.count += 1
        elif frame.msg_type == CLOSE:
            self.answer_close(transport)

    def answer_close(self, transport: picows.WSTransport) -> None:
        transport.send_close()
        transport.disconnect()


class CountingListener(Listener):
    """Counts text messages and leaves them alone."""

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == TEXT:
            self.count += 1
        elif frame.msg_type == CLOSE:
            self.answer_close(transport)


class DigestingListener(Listener):
    """Gives each message to a digest."""

    def __init__(self, digest: Digest) -> None:
        super().__init__()
        self.digest = digest

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == TEXT:
            self.digest.add(frame.get_payload_as_utf8_text())
        elif frame.msg_type == CLOSE:
            self.answer_close(transport)


class TalkingListener(Listener):
    """Resolves a future with the next text message, and knows whether writing is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[str] = self.loop.create_future()
        self.writable: asyncio.Future[None] | None = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == TEXT:
            self.reply.set_result(frame.get_payload_as_utf8_text())
        elif frame.msg_type == CLOSE:
            self.answer_close(transport)

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set_result(None)
            self.writable = None


class Text:
    listener = Listener

    async def connect(self, job: Job, factory: Any) -> tuple[picows.WSTransport, Any]:
        return await picows.ws_connect(factory, job.url, ssl_context=job.context, max_frame_size=2**31 - 1)

    async def receive(self, job: Job, watch: Stopwatch) -> int:
        transport, listener = await self.connect(job, self.listener)
        watch.start()
        transport.send(TEXT, b"go")
        await transport.wait_disconnected()
        watch.stop()
        count: int = listener.count
        return count

    async def check(self, job: Job, digest: Digest) -> None:
        transport, _ = await self.connect(job, lambda: DigestingListener(digest))
        transport.send(TEXT, b"go")
        await transport.wait_disconnected()

    async def echo(self, job: Job, watch: Stopwatch) -> list[str]:
        echoes: list[str] = []
        transport, listener = await self.connect(job, TalkingListener)
        watch.start()
        for _ in range(job.repeats):
            echoes.clear()
            for message in job.messages:
                listener.reply = listener.loop.create_future()
                transport.send(TEXT, message.encode())
                echoes.append(await listener.reply)
        watch.stop()
        transport.send_close()
        await transport.wait_disconnected()
        return echoes

    async def send(self, job: Job, watch: Stopwatch) -> str:
        transport, listener = await self.connect(job, TalkingListener)
        watch.start()
        for _ in range(job.repeats):
            for message in job.messages:
                transport.send(TEXT, message.encode())
                if listener.writable is not None:
                    await listener.writable
        answer: str = await listener.reply
        watch.stop()
        await transport.wait_disconnected()
        return answer


class Count(Text):
    listener = CountingListener
