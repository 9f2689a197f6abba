from collections.abc import Iterable

from typing_extensions import disjoint_base

from ._decoder import FrameDecoder

@disjoint_base
class FedDecoder(FrameDecoder):
    """The part of `PumpedDecoder` that a pump drives, without the GIL."""

    def reply_with(self, texts: Iterable[bytes | None]) -> None:
        """What the pump answers by itself; to be called before it reads.

        Args:
            texts: The text of each of the ``replies``, as bytes; None leaves one to the loop, by a notice. Those at the
                end that have none are what a heartbeat expects: `heard` counts them.
        """
    @property
    def heard(self) -> int:
        """Answers to heartbeats that the pump has seen."""
    @property
    def beats(self) -> tuple[int, int]:
        """``time.monotonic_ns()`` of two heartbeats: the earliest that no answer has followed, and the last; or 0."""
    @property
    def pings(self) -> tuple[int, int]:
        """(pings answered by the pump, longest time from the read to the answer in nanoseconds)."""
    @property
    def pause(self) -> tuple[int, bool, int, int]:
        """Pauses of reading at a limit: (number, whether there is one, nanoseconds in all, those of the longest)."""
