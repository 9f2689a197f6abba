"""Threads that share receive memory: decoders that work without the GIL, batches released and sliced elsewhere.

Usage: python -m tests.native.threads [--seconds N]

Each producer feeds its own decoder chunks large enough to be decoded without the GIL, and hands batches to all
consumers. These look at them, slice, keep views and pickle them, and give them back, while decoders go on writing
behind them in the same segments. Under ThreadSanitizer: python -m tests.native.sanitize --threads N
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import queue
import random
import sys
import threading
import time
from typing import Any, Literal

from fastws._decoder import FrameDecoder
from fastws._segment import live_segments
from fastws.deflate import Deflate
from fastws.wire import Opcode
from tests.core.streams import KEY, by_buffer, deflate, frame

CHUNK_BYTES = 100_000
MESSAGES = 500
PRODUCERS = 3
CONSUMERS = 3


def content(producer: int, number: int) -> bytes:
    """What message ``number`` says: any other content is a mistake."""
    return b"%d:%d:" % (producer, number) + b"x" * (number * 7 % 400)


def chunk_of(producer: int, role: str, compressed: bool) -> bytes:
    """Messages 0 to MESSAGES - 1, with fragments and pings among them."""
    key = KEY if role == "server" else None
    frames = []
    for number in range(MESSAGES):
        payload = content(producer, number)
        if compressed and number % 2:
            frames.append(frame(Opcode.TEXT, deflate(payload), rsv=4, key=key))
        elif number % 11 == 0:
            frames.append(frame(Opcode.TEXT, payload[:3], fin=False, key=key))
            frames.append(frame(Opcode.PING, b"ping", key=key))
            frames.append(frame(Opcode.CONT, payload[3:], key=key))
        else:
            frames.append(frame(Opcode.TEXT, payload, key=key))
    return b"".join(frames)


class Stress:
    """Producers, consumers and what went wrong.

    Attributes:
        errors: What threads raised.
        batches: Handed over so far.
        refusals: Times that a decoder at work refused another thread.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.queue: queue.Queue[tuple[int, int, Any] | None] = queue.Queue(maxsize=50)
        self.decoders: list[Any] = []
        self.errors: list[BaseException] = []
        self.batches = 0
        self.refusals = 0

    def guarded(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.errors.append(error)
            raise

    def produce(self, producer: int) -> None:
        choices = random.Random(producer)
        role: Literal["server", "client"] = "client" if producer % 2 else "server"
        compressed = producer > 0
        data = chunk_of(producer, role, compressed)
        while time.monotonic() < self.end and not self.errors:
            terms = Deflate(remote_no_context_takeover=True) if compressed else None
            decoder = FrameDecoder(role, max_queue=(300, 100), max_queue_bytes=None, deflate=terms)
            self.decoders[producer] = decoder
            first = 0
            for _ in range(4):
                deliver = by_buffer if choices.randrange(2) else FrameDecoder.feed
                deliver(decoder, data)
                while decoder.queued_messages:
                    batch = decoder.take(choices.choice((None, 1, 50)))
                    self.batches += 1
                    self.queue.put((producer, first % MESSAGES, batch))
                    first += len(batch)
                    del batch
                    decoder.resume()
            if decoder.violation is not None or first != 4 * MESSAGES:
                raise AssertionError(f"{first} messages instead of {4 * MESSAGES}, violation {decoder.violation}")

    def consume(self, number: int) -> None:
        choices = random.Random(100 + number)
        kept: list[Any] = []
        while (item := self.queue.get()) is not None:
            producer, first, batch = item
            del item
            self.look(producer, first, batch, choices)
            part = batch[choices.randrange(len(batch)) :: choices.choice((1, 2, -1))]
            kept.append((part.view(0), bytes(part.view(0))))
            kept.append((pickle.loads(pickle.dumps(part)).view(-1), bytes(part.view(-1))))
            del batch, part
            while len(kept) > 200:
                view, expected = kept.pop(choices.randrange(len(kept)))
                if view != expected:
                    raise AssertionError(f"a view changed: {bytes(view)!r} instead of {expected!r}")
                del view

    def look(self, producer: int, first: int, batch: Any, choices: random.Random) -> None:
        for i in (0, len(batch) - 1, choices.randrange(len(batch))):
            expected = content(producer, (first + i) % MESSAGES)
            if batch[i] != expected.decode() or batch.view(i) != expected:
                raise AssertionError(f"message {i} of a batch is {batch[i]!r} instead of {expected!r}")
        if len(list(batch)) != len(batch):
            raise AssertionError("a batch lost messages")

    def meddle(self) -> None:
        """Call decoders that belong to other threads while these are at work; nothing may come of it but a refusal."""
        for producer in itertools.cycle(range(PRODUCERS)):
            if time.monotonic() >= self.end or self.errors:
                return
            decoder = self.decoders[producer]
            if decoder is not None:
                try:
                    decoder.controls()
                except RuntimeError:
                    self.refusals += 1
            time.sleep(0.0005)

    def run(self) -> None:
        """Run all threads to their end."""
        self.decoders = [None] * PRODUCERS
        consumers = [threading.Thread(target=self.guarded, args=(self.consume, i)) for i in range(CONSUMERS)]
        producers = [threading.Thread(target=self.guarded, args=(self.produce, i)) for i in range(PRODUCERS)]
        producers.append(threading.Thread(target=self.guarded, args=(self.meddle,)))
        for thread in [*consumers, *producers]:
            thread.start()
        for thread in producers:
            thread.join()
        for _ in consumers:
            self.queue.put(None)
        for thread in consumers:
            thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    sys.setswitchinterval(1e-4)
    before = live_segments()
    stress = Stress(args.seconds)
    stress.run()
    batches, refusals, errors = stress.batches, stress.refusals, len(stress.errors)
    del stress
    left = live_segments() - before
    print(f"{batches} batches, {refusals} refusals, {errors} errors, {left} segments never given back")
    return 1 if errors or left or not batches else 0


if __name__ == "__main__":
    sys.exit(main())
