"""The workloads, and who takes part in them."""

from __future__ import annotations

import dataclasses

__all__ = ["WORKS", "Work"]

RECEIVERS = ("raw", "fastws", "fastws-batches", "fastws-count", "picows.websockets", "aiohttp", "websockets")
CORE_RECEIVERS = (*RECEIVERS[:5], "picows-core", "picows-core-count", *RECEIVERS[5:])
ECHOERS = ("raw", "fastws", "picows.websockets", "picows-core", "aiohttp", "websockets")
SENDERS = ("raw", "fastws", "fastws-send_batch", "picows.websockets", "picows-core", "aiohttp", "websockets")
HOLDERS = ("fastws", "picows.websockets", "websockets")


@dataclasses.dataclass(frozen=True)
class Work:
    """A workload.

    Attributes:
        name: What ``--work`` calls it.
        title: What it is, for a heading.
        kind: "burst" (we receive), "echo" (one message in flight), "send" (we send), "memory" (we let messages wait).
        payload: What `benchmarks.messages.make` is asked for.
        block: Different messages.
        repeats: How many times the block goes over one connection.
        contenders: Who takes part, in the order of the table.
        deflate: "" for none, "fresh" for permessage-deflate without context takeover, "takeover" with it.
        tls: Whether it goes through TLS.
    """

    name: str
    title: str
    kind: str
    payload: str
    block: int
    repeats: int
    contenders: tuple[str, ...]
    deflate: str = ""
    tls: bool = False

    def quick(self) -> Work:
        """The same with fewer messages, to see that it works rather than how fast it is."""
        if self.kind == "memory":
            return self
        return dataclasses.replace(self, block=max(self.block // 10, 50), repeats=max(self.repeats // 2, 1))


WORKS = {
    work.name: work
    for work in (
        Work("json150", "150-byte JSON text in a burst", "burst", "trade", 50_000, 10, CORE_RECEIVERS),
        Work("text16k", "16 KiB text in a burst", "burst", "book16k", 400, 50, CORE_RECEIVERS),
        Work(
            "deflate150",
            "150-byte JSON text in a burst, permessage-deflate without context takeover",
            "burst",
            "trade",
            50_000,
            4,
            RECEIVERS,
            deflate="fresh",
        ),
        # One continuous stream: repeating its bytes would refer to a window that isn't there any more.
        Work(
            "deflate150-takeover",
            "150-byte JSON text in a burst, permessage-deflate with context takeover",
            "burst",
            "trade",
            200_000,
            1,
            RECEIVERS,
            deflate="takeover",
        ),
        Work("tls150", "150-byte JSON text in a burst over TLS", "burst", "trade", 50_000, 8, CORE_RECEIVERS, tls=True),
        Work("echo256", "echo of 256 bytes, one in flight", "echo", "text256", 1_000, 10, ECHOERS),
        Work(
            "echo256-tls", "echo of 256 bytes over TLS, one in flight", "echo", "text256", 1_000, 10, ECHOERS, tls=True
        ),
        Work("send150", "sending 150-byte JSON text in a burst", "send", "trade", 50_000, 3, SENDERS),
        Work("memory", "1 million queued 150-byte messages", "memory", "trade", 50_000, 20, HOLDERS),
    )
}
