"""What fastws is to reach: so many times less than a peer, on the same work and loop."""

from __future__ import annotations

import dataclasses

__all__ = ["MEMORY_LIMIT_BYTES", "TARGETS", "Target"]


@dataclasses.dataclass(frozen=True)
class Target:
    """``peer`` divided by ``contender`` in ``measure`` must be at least ``ratio``."""

    work: str
    contender: str
    peer: str
    ratio: float
    measure: str = "cpu_ns"


TARGETS = (
    Target("json150", "fastws", "picows.websockets", 4),
    Target("json150", "fastws", "websockets", 30),
    Target("json150", "fastws-batches", "picows.websockets", 5.5),
    # picows core "with text" does more than counting does; both comparisons are shown.
    Target("json150", "fastws-count", "picows-core", 9),
    Target("json150", "fastws-count", "picows-core-count", 9),
    Target("text16k", "fastws", "picows.websockets", 2),
    Target("text16k", "fastws-count", "picows.websockets", 3.5),
    Target("deflate150", "fastws", "picows.websockets", 3.5),
    Target("deflate150-takeover", "fastws", "picows.websockets", 2),
    Target("tls150", "fastws", "picows.websockets", 3),
    Target("echo256", "fastws", "picows.websockets", 1, "wall_ns"),
    Target("echo256", "fastws", "picows.websockets", 1),
    Target("send150", "fastws", "picows.websockets", 1),
)

MEMORY_LIMIT_BYTES = 200_000_000
"""Growth of resident memory for the million queued messages of the work "memory"."""
