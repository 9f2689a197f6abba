"""Who is measured: a file per library, a class per way of using it.

All keep their default limits and queues; keepalive is off, proxies are ignored, and messages have no size limit.
"""

from __future__ import annotations

import dataclasses
import importlib
import ssl
from typing import Protocol

from benchmarks.loops.frames import Digest
from benchmarks.loops.measure import Stopwatch

__all__ = ["CONTENDERS", "PEERS", "Contender", "Job", "load", "title"]

CONTENDERS = {
    # name: (library, how it is used in a burst, module, class)
    "raw": ("raw socket", "`recv` (floor)", "raw", "Raw"),
    "fastws": ("fastws", "`async for`", "drop_in", "Fastws"),
    "fastws-batches": ("fastws", "batches iterated", "drop_in", "FastwsBatches"),
    "fastws-count": ("fastws", "batches counted", "drop_in", "FastwsCount"),
    "fastws-send_batch": ("fastws `send_batch`", "", "drop_in", "FastwsSendBatch"),
    "picows.websockets": ("picows.websockets", "", "drop_in", "PicowsWebsockets"),
    "picows-core": ("picows core", "text", "picows_core", "Text"),
    "picows-core-count": ("picows core", "counted", "picows_core", "Count"),
    "aiohttp": ("aiohttp", "", "aiohttp_client", "Aiohttp"),
    "websockets": ("websockets", "", "drop_in", "Websockets"),
}

PEERS = ("picows.websockets", "picows-core", "picows-core-count", "aiohttp", "websockets")
"""Those that ratios are given for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a contender is to do.

    Attributes:
        url: Where the source is, with the task in its path.
        context: For TLS, else None.
        deflate: Whether to offer permessage-deflate.
        repeats: How many times the block of messages comes or goes.
        wire_bytes: What a burst has on the wire in all, without the close frame.
        messages: What to send; empty for a burst.
    """

    url: str
    context: ssl.SSLContext | None
    deflate: bool
    repeats: int
    wire_bytes: int
    messages: list[str]


class Contender(Protocol):
    """A way of using a library. Each has those of these that its workloads ask for."""

    async def receive(self, job: Job, watch: Stopwatch) -> int:
        """Connect, start the watch, say go, receive until the connection is closed; return the number of messages."""

    async def check(self, job: Job, digest: Digest) -> None:
        """The same for the digest, not for the watch."""

    async def echo(self, job: Job, watch: Stopwatch) -> list[str]:
        """Send each message, each time waiting for its echo; return the echoes of the last round."""

    async def send(self, job: Job, watch: Stopwatch) -> str:
        """Send all messages, stop the watch at the answer, and return it."""

    async def hold(self, job: Job, watch: Stopwatch) -> tuple[int, int]:
        """Leave messages queued until all are there; return their number and the growth of resident memory."""


def title(name: str, kind: str) -> str:
    """What tables call a contender in works of one kind."""
    library, way, _, _ = CONTENDERS[name]
    return f"{library}, {way}" if way and kind == "burst" else library


def load(name: str) -> Contender:
    """Import a contender, and nothing of the others."""
    _, _, module, attribute = CONTENDERS[name]
    contender: Contender = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)()
    return contender
