from collections.abc import Callable
from typing import Any, final

from ._fed import FedDecoder

@final
class PumpedDecoder(FedDecoder):
    """A `FrameDecoder` between a `fastws.Pump`, which reads the socket in a native thread, and Python.

    Arguments, methods and attributes are those of `FrameDecoder`; memory for reads is lent to nobody, so
    ``get_buffer`` and ``buffer_updated`` aren't for use. Any thread may consume, one at a time.
    """

    def call_ahead(
        self,
        on_notices: Callable[[Any], object] | None,
        on_frames: Callable[[list[tuple[int, bool, bytes]]], object] | None = None,
    ) -> None:
        """What comes ahead of messages that are taken, although the report to the loop may still be under way.

        Args:
            on_notices: Called with the decoder in this thread, if there are `notices`.
            on_frames: Called with what `unlogged` gives, in any thread; then answered pings are told of, too.
        """
    def step_status(self) -> int:
        """A `Status` of what is to be looked at now."""
    def arm(self) -> None:
        """Report the next change of the queue to the loop, once. Look at the queue after it, then wait."""
    def wait(self, timeout_s: float | None = None, /) -> bool:
        """Wait without the GIL until a complete message is queued, or until nothing more will come.

        Args:
            timeout_s: Seconds; None is no limit.

        Returns:
            Whether one of both is so; False after the timeout.
        """
    def wait_frame(self, timeout_s: float | None = None, /) -> bool:
        """As `wait`, for the next fragment or whole message."""
    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the socket is closed."""
