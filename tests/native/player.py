"""Plays a scenario on one implementation, holding on to what it gives, and records all that can be seen."""

from __future__ import annotations

import bisect
import itertools
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any

from fastws.wire import Status
from tests.core.conftest import Implementation
from tests.core.streams import by_buffer, by_feed
from tests.core.test_differential import ACTIONS, describe_batch, state_of

from .scenario import Scenario

MOST_HELD = 24


class Difference(AssertionError):
    """The implementations disagree, or one of them broke a promise."""


class Player:
    """Plays a scenario on one implementation and records what can be seen.

    Attributes:
        record: One item for each step: (step, result, state).
    """

    def __init__(self, implementation: Implementation, scenario: Scenario) -> None:
        self.decoder = implementation.FrameDecoder(scenario.role, **scenario.options)
        self.turn = implementation.Turn(self.decoder, **scenario.turn)
        self.resumed = 0
        self.iterator = implementation.MessageIterator(self.decoder, self.turn, self.wait, self.resume)
        self.started_ns: list[int] = []
        self.batches: list[Any] = []
        self.known: list[Any] = []
        self.views: list[memoryview] = []
        self.iterators: list[Any] = []
        self.lent: list[memoryview] = []
        self.record: list[Any] = []

    async def wait(self) -> Any:
        message = self.decoder.pop()
        if message is None:
            raise StopAsyncIteration
        return message

    def resume(self) -> None:
        self.resumed += 1
        self.decoder.resume()

    def play(self, steps: Iterable[tuple[str, Any]]) -> None:
        for name, argument in steps:
            try:
                result = self.step(name, argument)
            except (ValueError, IndexError, BufferError) as error:
                result = type(error).__name__
            self.record.append((name, result, state_of(self.decoder)))

    def step(self, name: str, argument: Any) -> Any:
        if name in DELIVERIES:
            self.started_ns.append(time.monotonic_ns())
            return DELIVERIES[name](self, argument)
        if name in ACTIONS:
            return ACTIONS[name](self.decoder)
        return STEPS[name](self, argument)

    def finish(self) -> None:
        """Look at everything that is held, with the decoder and without it."""
        self.play([("take", None), ("resume", None), ("pop_fragment", None), ("anext", None)] * 8)
        self.play([("end_of_stream", None), ("controls", None), ("hold", None)])
        del self.decoder, self.turn, self.iterator, self.lent
        self.record.append(("views", [bytes(view) for view in self.views]))
        self.record.append(("iterators", [list(iterator) for iterator in self.iterators]))
        for batch, known in zip(self.batches, self.known, strict=True):
            self.expect_unchanged(batch, known)
        del self.batches, self.iterators
        self.record.append(("views", [bytes(view) for view in self.views]))

    # Batches.

    def describe(self, batch: Any) -> Any:
        """Messages, each with the number of the delivery that brought it."""
        times = [batch.received_ns_at(i) for i in range(len(batch))]
        if times and batch.received_ns != times[0]:
            raise Difference(f"received_ns is {batch.received_ns}, of the first message {times[0]}")
        deliveries = [bisect.bisect_right(self.started_ns, received_ns) for received_ns in times]
        return list(batch), describe_batch(batch), deliveries, len(batch), batch.nbytes

    def expect_unchanged(self, batch: Any, known: Any) -> None:
        if self.describe(batch) != known:
            raise Difference(f"a batch changed: it was {known}, is {self.describe(batch)}")

    def keep(self, batch: Any) -> Any:
        description = self.describe(batch)
        if len(self.batches) < MOST_HELD:
            self.batches.append(batch)
            self.known.append(description)
        return description

    def held(self, number: int) -> Any:
        """A batch that is held; IndexError if none is."""
        return self.batches[number % len(self.batches)] if self.batches else self.batches[0]

    def hold(self, most: int | None) -> Any:
        return self.keep(self.decoder.take(most))

    def check(self, argument: tuple[int, int]) -> None:
        batch = self.held(argument[0])
        self.expect_unchanged(batch, self.known[argument[0] % len(self.batches)])

    def cut(self, argument: tuple[int, slice]) -> Any:
        return self.keep(self.held(argument[0])[argument[1]])

    def view(self, argument: tuple[int, int]) -> Any:
        view = self.held(argument[0]).view(argument[1] % 40 - 20)
        if len(self.views) < MOST_HELD:
            self.views.append(view)
        return view.readonly, view.nbytes, bytes(view), bytes(view[::-2])

    def travel(self, argument: tuple[int, int]) -> Any:
        batch = self.held(argument[0])
        copy = pickle.loads(pickle.dumps(batch, argument[1] % (pickle.HIGHEST_PROTOCOL + 1)))
        return self.describe(copy), self.describe(copy) == self.describe(batch)

    def iterate(self, argument: tuple[int, int]) -> Any:
        """Half a batch now, the rest at the end."""
        batch = self.held(argument[0])
        iterator = iter(batch) if argument[1] % 2 else reversed(batch)
        if len(self.iterators) < MOST_HELD:
            self.iterators.append(iterator)
        return list(itertools.islice(iterator, len(batch) // 2))

    def search(self, argument: tuple[int, int]) -> Any:
        batch = self.held(argument[0])
        message = batch[argument[1] % 20]
        return batch.index(message), batch.count(message), message in batch, b"\x01absent" in batch

    def compare(self, argument: tuple[int, int]) -> Any:
        first, second = (self.held(number) for number in argument)
        return first == second, first != second, first == first[:], first == list(first)

    def forget(self, argument: tuple[int, int]) -> None:
        if self.batches:
            number = argument[0] % len(self.batches)
            del self.batches[number], self.known[number]

    # Deliveries.

    def feed_in_part(self, chunk: bytes) -> Status:
        """From memory that is writable, doesn't begin where it was allocated, and changes afterwards."""
        memory = bytearray(b"\xff" + chunk + b"\xff")
        status = by_feed(self.decoder, memoryview(memory)[1:-1])  # type: ignore[arg-type]
        memory[:] = bytes(len(memory))
        return status

    def with_hint(self, chunk: bytes) -> Status:
        """All at once, in a buffer that was asked for; the first of two that were lent is never used."""
        self.decoder.honors_sizehint = True
        with self.decoder.get_buffer(1), self.decoder.get_buffer(len(chunk)) as buffer:
            if len(buffer) < len(chunk) <= 1 << 20:
                raise Difference(f"get_buffer({len(chunk)}) lent {len(buffer)} bytes")
            size = min(len(buffer), len(chunk))
            buffer[:size] = chunk[:size]
        status = Status(self.decoder.buffer_updated(size))
        self.decoder.honors_sizehint = False
        return status | by_buffer(self.decoder, chunk[size:]) if chunk[size:] else status

    def while_lent(self, chunk: bytes) -> Status:
        """The transport still holds the buffer while what it wrote is decoded."""
        with self.decoder.get_buffer() as buffer:
            size = min(len(buffer), len(chunk))
            buffer[:size] = chunk[:size]
            status = Status(self.decoder.buffer_updated(size))
        return status | by_buffer(self.decoder, chunk[size:]) if chunk[size:] else status

    def lend(self, _: None) -> None:
        buffer = self.decoder.get_buffer()
        if buffer.readonly or not buffer.nbytes:
            raise Difference("lent memory is empty or can't be written to")
        if len(self.lent) < MOST_HELD:
            self.lent.append(buffer)

    def overrun(self, _: None) -> Any:
        size = self.decoder.get_buffer().nbytes
        return self.decoder.buffer_updated(size + 1)

    # Iteration.

    def anext(self, _: None) -> Any:
        """One message, however often the loop must run; a second awaitable is made, and dropped or taken first."""
        first, second = self.iterator.__anext__(), self.iterator.__anext__()
        second.close()
        for turns in range(4):
            try:
                first.send(None)
            except StopIteration as stop:
                return turns, stop.value, self.resumed
            except StopAsyncIteration:
                return turns, "the end", self.resumed
        first.close()
        return "turns for ever", self.resumed

    def set_busy(self, busy: bool) -> None:
        self.turn.busy = busy


DELIVERIES: dict[str, Callable[[Player, bytes], Status]] = {
    "feed": Player.feed_in_part,
    "buffer": lambda player, chunk: by_buffer(player.decoder, chunk),
    "buffer hint": Player.with_hint,
    "buffer lent": Player.while_lent,
}
STEPS: dict[str, Callable[[Player, Any], Any]] = {
    "hold": Player.hold,
    "check": Player.check,
    "slice": Player.cut,
    "view": Player.view,
    "pickle": Player.travel,
    "iterate": Player.iterate,
    "search": Player.search,
    "compare": Player.compare,
    "forget": Player.forget,
    "forget views": lambda player, _: player.views.clear(),
    "anext": Player.anext,
    "busy": lambda player, _: player.set_busy(True),
    "not busy": lambda player, _: player.set_busy(False),
    "lend": Player.lend,
    "unlend": lambda player, _: player.lent.clear(),
    "overrun": Player.overrun,
    "take 0": lambda player, _: player.decoder.take(0),
    "end_of_stream": lambda player, _: Status(player.decoder.end_of_stream()),
}
