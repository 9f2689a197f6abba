from collections.abc import Iterator, Sequence
from typing import Any, final, overload

from .overflow import Lost

@final
class Batch(Sequence[str | bytes]):
    """An immutable sequence of messages that makes a Python object only of those you touch.

    Iterating and indexing give ``str`` for text and ``bytes`` for binary messages. A batch keeps the memory its
    messages were received in; a slice shares it. Batches are hashable by identity, compare equal element by
    element, and pickle.
    """

    @property
    def nbytes(self) -> int:
        """Sum of the payload lengths in bytes. O(n)."""
    @property
    def lost(self) -> Lost:
        """Messages lost since the batch before, see ``FrameDecoder.take``. Of a slice, a copy or an unpickled batch:
        none."""
    @property
    def received_ns(self) -> int:
        """``time.monotonic_ns()`` of the read that brought the first (oldest) message; 0 if the batch is empty."""
    def received_ns_at(self, index: int, /) -> int:
        """``time.monotonic_ns()`` of the read that brought (the last byte of) message ``index``."""
    def view(self, index: int, /) -> memoryview:
        """The payload of message ``index`` as a read-only memoryview, without a copy; valid as long as it lives."""
    def is_text(self, index: int, /) -> bool:
        """Whether message ``index`` is text (opcode 0x1) rather than binary."""
    def index(self, value: Any, start: int = 0, stop: int | None = None, /) -> int:
        """First index of ``value`` in ``self[start:stop]``; ValueError if it isn't there."""
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> str | bytes: ...
    @overload
    def __getitem__(self, index: slice, /) -> Batch: ...
    def __iter__(self) -> Iterator[str | bytes]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

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
