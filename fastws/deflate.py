"""What the two ends agreed on for permessage-deflate (RFC 7692), as the data plane needs it. Vocabulary."""

from __future__ import annotations

import dataclasses

__all__ = ["Deflate"]


@dataclasses.dataclass(frozen=True, slots=True)
class Deflate:
    """Parameters of permessage-deflate, RFC 7692 section 7.1, seen from our side.

    Attributes:
        remote_no_context_takeover: The peer starts every message with an empty window.
        local_no_context_takeover: We start every message with an empty window.
        remote_max_window_bits: Base-2 logarithm of the peer's window, 8 to 15.
        local_max_window_bits: Base-2 logarithm of our window, 9 to 15 (zlib can't produce 8).
        level: zlib's compression level, -1 to 9.
        mem_level: zlib's memory level, 1 to 9.
        strategy: zlib's strategy, 0 to 4.
    """

    remote_no_context_takeover: bool = False
    local_no_context_takeover: bool = False
    remote_max_window_bits: int = 15
    local_max_window_bits: int = 15
    level: int = -1
    mem_level: int = 8
    strategy: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("remote_max_window_bits", self.remote_max_window_bits, 8, 15),
            ("local_max_window_bits", self.local_max_window_bits, 9, 15),
            ("level", self.level, -1, 9),
            ("mem_level", self.mem_level, 1, 9),
            ("strategy", self.strategy, 0, 4),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, must be {low} to {high} (RFC 7692 7.1.2)")
