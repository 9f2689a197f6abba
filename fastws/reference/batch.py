"""What the consumer gets when it takes many messages at once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from .. import pickled
from ..overflow import Lost

__all__ = ["Batch", "Record", "rebuild_batch"]


class Record(NamedTuple):
    """A message as received.

    Attributes:
        is_text: Whether it is text rather than binary.
        payload: Its bytes; UTF-8 if it is text.
        received_ns: ``time.monotonic_ns()`` of the read that completed it.
    """

    is_text: bool
    payload: bytes
    received_ns: int

    @property
    def message(self) -> str | bytes:
        """``str`` for text, ``bytes`` for binary."""
        return self.payload.decode() if self.is_text else self.payload


class Batch(Sequence[str | bytes]):
    """An immutable sequence of messages: ``str`` for text, ``bytes`` for binary.

    Batches are hashable by identity, compare equal element by element, and pickle.

    Args:
        records: The messages.
        lost: Messages lost since the batch before.
    """

    __slots__ = ("_lost", "_records")

    def __init__(self, records: Iterable[Record] = (), lost: Lost | None = None) -> None:
        self._records = tuple(records)
        self._lost = Lost() if lost is None else lost

    @property
    def lost(self) -> Lost:
        """Messages lost since the batch before. Of a slice, a copy or an unpickled batch: none."""
        return self._lost

    @property
    def nbytes(self) -> int:
        """Sum of the payload lengths in bytes. O(n)."""
        return sum(len(record.payload) for record in self._records)

    @property
    def received_ns(self) -> int:
        """``time.monotonic_ns()`` of the read that brought the first (oldest) message; 0 if the batch is empty."""
        return self._records[0].received_ns if self._records else 0

    def received_ns_at(self, index: int, /) -> int:
        """``time.monotonic_ns()`` of the read that brought (the last byte of) message ``index``."""
        return self._records[index].received_ns

    def view(self, index: int, /) -> memoryview:
        """The payload of message ``index`` as a read-only memoryview, without a copy; valid as long as it lives."""
        return memoryview(self._records[index].payload)

    def is_text(self, index: int, /) -> bool:
        """Whether message ``index`` is text (opcode 0x1) rather than binary."""
        return self._records[index].is_text

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int, /) -> str | bytes: ...
    @overload
    def __getitem__(self, index: slice, /) -> Batch: ...
    def __getitem__(self, index: int | slice, /) -> str | bytes | Batch:
        if isinstance(index, slice):
            return Batch(self._records[index])
        return self._records[index].message

    def __iter__(self) -> Iterator[str | bytes]:
        return (record.message for record in self._records)

    def __eq__(self, other: object, /) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        return self._contents() == other._contents()

    __hash__ = object.__hash__

    def _contents(self) -> list[tuple[bool, bytes]]:
        return [(record.is_text, record.payload) for record in self._records]

    def __reduce__(self) -> tuple[Any, ...]:
        payload = b"".join(record.payload for record in self._records)
        lengths = array("Q", (len(record.payload) for record in self._records)).tobytes()
        kinds = bytes(record.is_text for record in self._records)
        received_ns = array("q", (record.received_ns for record in self._records)).tobytes()
        return pickled.rebuild_batch, (payload, lengths, kinds, received_ns)


def rebuild_batch(payload: bytes, lengths: bytes, kinds: bytes, received_ns: bytes) -> Batch:
    """Make a batch of the parts that pickling took it into.

    Args:
        payload: All payloads, one behind the other.
        lengths: One native ``uint64`` each.
        kinds: One byte each: 1 for text, 0 for binary.
        received_ns: One native ``int64`` each.

    Raises:
        ValueError: If the parts don't fit together, or a text message isn't UTF-8.
    """
    if len(lengths) % 8 or len(received_ns) % 8:
        raise ValueError("lengths and received_ns must be 8 bytes for each message")
    sizes = array("Q", lengths)
    times = array("q", received_ns)
    if not len(sizes) == len(kinds) == len(times):
        raise ValueError(f"{len(sizes)} lengths, {len(kinds)} kinds and {len(times)} times must be equally many")
    if sum(sizes) != len(payload):
        raise ValueError(f"lengths add up to {sum(sizes)} bytes, payload has {len(payload)}")
    records = []
    start = 0
    for size, kind, time_ns in zip(sizes, kinds, times, strict=True):
        if kind > 1:
            raise ValueError(f"kind is {kind}, must be 0 or 1")
        record = Record(bool(kind), payload[start : start + size], time_ns)
        if record.is_text:
            record.payload.decode()
        records.append(record)
        start += size
    return Batch(records)
