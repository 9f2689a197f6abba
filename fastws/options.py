"""The options that fastws adds to those of ``websockets``: one place for all functions and classes that take them."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from .core import IMPLEMENTATION, Pump
from .liveness import Heartbeat, Staleness
from .observe.pressure import Threshold
from .overflow import Between, Block, ExchangeTime, Inspect, Policy, Reply
from .wire import DEFAULT_MAX_QUEUE_BYTES

__all__ = ["Options", "merged_signature", "take_options"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `connect`, `serve`, `route` and of the connection classes, besides those of ``websockets``.

    Pass them as keyword arguments there; this class shows what there is.

    Args:
        max_queue_bytes: Bytes that may wait for the consumer before the queue is full; None is no limit.
        overflow: What happens to messages when the queue is full: a `Policy`. With one that drops, set ``max_queue`` or
            ``max_queue_age``, or it drops nothing before ``max_queue_bytes``.
        max_queue_age: Seconds after which a message that waits is too old; older ones are handled by ``overflow``.
        inspect: Where sequence numbers are, to tell gaps; see `Inspect`.
        exchange_time: Where a message says when it was made, for ``stats.exchange_lag_s``.
        replies: Automatic answers.
        heartbeat: A heartbeat made of messages.
        receive: Who reads the socket and sends answers and heartbeats: "loop", the event loop; "thread", a native
            thread that needs no GIL, so that the connection lives while the loop is blocked; or a `Pump`, a thread of
            one's own. None is what the environment says in ``FASTWS_RECEIVE``, or "loop".
        on_close: What happens to messages that wait when the connection ends: "drain" delivers them first, "raise"
            discards them and raises at once.
        stale_after: Seconds of silence after which a `Stale` event comes, or a `Staleness`.
        on_event: Called with (connection, event) for each `Event`, in the loop, ahead of the messages that wait. What
            it raises is logged.
        thresholds: When a consumer counts as slow: one `Threshold` or several, () for never. None is the default: the
            oldest message has waited for one second, or the queue has been 80 % full, by messages, bytes or age, for
            one second.

    Raises:
        TypeError: If an option isn't of its type.
        ValueError: If a value is out of range.
    """

    max_queue_bytes: int | None = DEFAULT_MAX_QUEUE_BYTES
    overflow: Policy = Block()  # noqa: RUF009  Frozen.
    max_queue_age: float | None = None
    inspect: Inspect | None = None
    exchange_time: ExchangeTime | None = None
    replies: Sequence[Reply] = ()
    heartbeat: Heartbeat | None = None
    receive: Literal["loop", "thread"] | Pump | None = None
    on_close: Literal["drain", "raise"] = "drain"
    stale_after: float | Staleness | None = None
    on_event: Callable[[Any, Any], object] | None = None
    thresholds: Threshold | Sequence[Threshold] | None = None

    def __post_init__(self) -> None:
        if self.max_queue_bytes is not None and self.max_queue_bytes < 0:
            raise ValueError(f"max_queue_bytes is {self.max_queue_bytes}, must be positive or zero")
        self._check_most("max_queue_bytes", sys.maxsize)
        self._check("overflow", _POLICIES, "a policy, such as DropOldest()")
        self._check("inspect", (Inspect, type(None)), "an Inspect or None")
        self._check("exchange_time", (ExchangeTime, type(None)), "an ExchangeTime or None")
        self._check("heartbeat", (Heartbeat, type(None)), "a Heartbeat or None")
        self._check("max_queue_age", _SECONDS, "a number of seconds or None")
        self._check("stale_after", (*_SECONDS, Staleness), "a number of seconds, a Staleness or None")
        if isinstance(self.replies, Reply) or not all(isinstance(reply, Reply) for reply in self.replies):
            raise TypeError(f"replies is {self.replies!r}, must be a sequence of Reply")
        for name in ("max_queue_age", "stale_after"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{name} is {value}, must be positive")
        self._check_most("max_queue_age", _AGE_MAX)
        if not all(isinstance(threshold, Threshold) for threshold in self.all_thresholds(None)):
            raise TypeError(f"thresholds is {self.thresholds!r}, must be a Threshold or a sequence of them")
        if not isinstance(self.receiver, Pump) and self.receiver not in ("loop", "thread"):
            raise ValueError(f"receive is {self.receiver!r}, must be 'loop', 'thread' or a Pump")
        if self.receiver != "loop" and IMPLEMENTATION == "pure":
            raise ValueError(f"receive is {self.receiver!r}, but only the compiled core has receive threads")
        if self.on_close not in ("drain", "raise"):
            raise ValueError(f"on_close is {self.on_close!r}, must be 'drain' or 'raise'")
        if self.on_event is not None and not callable(self.on_event):
            raise TypeError(f"on_event is {self.on_event!r}, must be callable")
        key = None if self.staleness is None else self.staleness.key
        if key is not None and not (isinstance(key, str | tuple | Between) or callable(key)):
            raise TypeError(f"the key of stale_after is {key!r}, must be a JSON Pointer, a tuple of them, or a Between")

    def _check(self, name: str, types: tuple[type, ...], wanted: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, must be {wanted}")

    def _check_most(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if value is not None and not value <= most:
            raise ValueError(f"{name} is {value}, must be at most {most}; None is no limit")

    @property
    def receiver(self) -> str | Pump:
        """``receive``, or its default."""
        return os.environ.get("FASTWS_RECEIVE") or "loop" if self.receive is None else self.receive

    @property
    def staleness(self) -> Staleness | None:
        """``stale_after`` in its long form."""
        return Staleness(self.stale_after) if isinstance(self.stale_after, int | float) else self.stale_after

    def all_thresholds(self, max_queue: int | None) -> tuple[Threshold, ...]:
        """Thresholds, the default ones included.

        Args:
            max_queue: Messages that may wait; None is no limit.
        """
        if isinstance(self.thresholds, Threshold):
            return (self.thresholds,)
        if self.thresholds is not None:
            return tuple(self.thresholds)
        if max_queue is None and self.max_queue_bytes is None and self.max_queue_age is None:
            return (Threshold(age=1.0),)
        full = Threshold(
            messages=None if max_queue is None else max(1, max_queue * 4 // 5),
            bytes=None if self.max_queue_bytes is None else max(1, self.max_queue_bytes * 4 // 5),
            age=None if self.max_queue_age is None else self.max_queue_age * 0.8,
            min_duration=1.0,
        )
        return Threshold(age=1.0), full

    @property
    def decoder_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the decoder, those that differ from its defaults."""
        replies = list(self.replies)
        if self.heartbeat is not None and self.heartbeat.expect is not None:
            replies.append(Reply(self.heartbeat.expect, "", self.heartbeat.deliver))
        arguments = {
            "overflow": None if self.overflow == Block() else self.overflow,
            "max_queue_age": self.max_queue_age,
            "inspect": self.inspect,
            "exchange_time": self.exchange_time,
            "replies": replies or None,
            "track": None if self.staleness is None else self.staleness.key,
        }
        return {name: value for name, value in arguments.items() if value is not None}


_POLICIES = get_args(Policy)
_AGE_MAX = 10**9
"""Seconds; nanoseconds are counted in 64 bits."""
_SECONDS = (int, float, type(None))
_NAMES = tuple(option.name for option in dataclasses.fields(Options))


def take_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take those keyword arguments out that are `Options`, and check them.

    Raises:
        TypeError: If an option isn't of its type.
        ValueError: If a value is out of range.
    """
    ours = {name: arguments.pop(name) for name in _NAMES if name in arguments}
    Options(**ours)
    return ours


def merged_signature(ours: Any, theirs: Any) -> inspect.Signature:
    """The upstream signature with our defaults, our parameters and our options, for ``help()`` and tools."""
    own = inspect.signature(ours).parameters
    upstream = inspect.signature(theirs)
    parameters = [own[name] if name == "max_queue" else parameter for name, parameter in upstream.parameters.items()]
    ours_too = [*own.values(), *inspect.signature(Options).parameters.values()]
    added = [p for p in ours_too if p.name not in upstream.parameters and p.kind is p.KEYWORD_ONLY]
    place = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        place -= 1
    parameters[place:place] = added
    return upstream.replace(parameters=parameters)
