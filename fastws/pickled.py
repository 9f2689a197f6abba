"""The name that pickled batches go by, so that either data plane reads what the other has written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["rebuild_batch", "rebuild_with"]

_rebuild: Callable[[bytes, bytes, bytes, bytes], Any] | None = None


def rebuild_with(rebuild: Callable[[bytes, bytes, bytes, bytes], Any]) -> None:
    """Set what makes batches in this process; `fastws.core` does it when it has chosen."""
    global _rebuild
    _rebuild = rebuild


def rebuild_batch(payload: bytes, lengths: bytes, kinds: bytes, received_ns: bytes) -> Any:
    """Make a batch of the parts that pickling took it into.

    Args:
        payload: All payloads, one behind the other.
        lengths: One native ``uint64`` each.
        kinds: One byte each: 1 for text, 0 for binary.
        received_ns: One native ``int64`` each.

    Raises:
        ValueError: If the parts don't fit together, or a text message isn't UTF-8.
    """
    assert _rebuild is not None, "importing the package fastws sets it"
    return _rebuild(payload, lengths, kinds, received_ns)
