"""Threads that do to a pump whatever threads can do: a peer, a consumer, writers and a meddler for each connection.

Usage: python -m tests.pump.stress [--seconds N] [--seed S] [--connections N]

Each connection is a pair of sockets. The peer floods one end with numbered messages, whole and fragmented, and pings,
and reads what comes back; the other end belongs to a pump. A consumer takes messages in every way there is, a meddler
looks at figures and changes its mind about reading, writers send numbered frames, some in fragments, while pings and
questions are answered and heartbeats are sent, and the connection ends in one of several ways. Afterwards:

- what came is what was delivered, lost under a name, or is still queued; what the consumer has counted agrees;
- messages are in their order, each at most once, and without loss none is missing;
- each frame that came back is whole: those of a writer in their order, pongs in the order of the pings, as many
  replies as questions and heartbeats as were counted, and none of them between fragments.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastws import overflow
from fastws._decoder import FrameDecoder
from fastws._encoder import FrameEncoder
from fastws._pump import Hub, Pump
from fastws._pumped import PumpedDecoder
from fastws._segment import live_segments
from fastws.deflate import Deflate
from fastws.wire import Opcode
from tests.core.streams import deflate, frame

ENDS = ("end", "close", "abort", "reset", "violate", "discard")
KEYS = 5

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {"max_queue": None, "max_queue_bytes": None},
    {"max_queue": 1},
    {"max_queue": (16, 4)},
    {"max_queue": None, "max_queue_bytes": 4096},
    {"max_queue": 16, "overflow": overflow.DropOldest()},
    {"max_queue": 1, "overflow": overflow.DropNewest()},
    {"max_queue": None, "overflow": overflow.Conflate("/k")},
    {"max_queue": 16, "overflow": overflow.Conflate(lambda message: "k" + str(number_of(message) % KEYS))},
    {"max_queue": None, "overflow": overflow.DropOldest(), "max_queue_age": 0.002},
    {"max_queue": 16, "deflate": Deflate(remote_no_context_takeover=True)},
    {"max_queue": 16, "replies": [overflow.Reply({"/k": "k0"}, "reply", deliver=True)]},
)


class Broken(AssertionError):
    """A promise of the pump wasn't kept."""


def payload_of(number: int) -> bytes:
    """What message ``number`` says; its number can be read back."""
    return b'{"k":"k%d","n":%d,"x":"%s"}' % (number % KEYS, number, b"x" * (number * 7 % 300))


def number_of(message: str | bytes) -> int:
    """The number of a message that is as it was sent."""
    text = message if isinstance(message, bytes) else message.encode()
    number = int(text.split(b":", 3)[2].split(b",")[0])
    if text != payload_of(number):
        raise Broken(f"message {number} is {text!r}")
    return number


class Trial:
    """One connection from its first byte to its end.

    Attributes:
        errors: What threads raised.
    """

    def __init__(self, pump: Pump, hub: Hub, seed: int, most_messages: int) -> None:
        self.seed = seed
        choices = random.Random(seed)
        self.options = choices.choice(CONFIGURATIONS)
        self.messages = choices.randrange(1, most_messages)
        self.end = choices.choice(ENDS)
        self.fragments = "overflow" not in self.options and choices.randrange(2) == 0
        self.errors: list[BaseException] = []
        self.ours, self.theirs = socket.socketpair()
        for sock in (self.ours, self.theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, choices.choice((4096, 65536, 1 << 20)))
        self.decoder: Any = PumpedDecoder("client", max_size=None, **self.options)
        if choices.randrange(2) == 0:
            # As if all were logged.
            self.decoder.call_ahead(None, lambda frames: None)
        self.beats_s = choices.choice((0.0, 0.0, 0.001, 0.003, 0.02))  # between two heartbeats, if there are any
        self.questions = self.replied = 0  # that the peer has sent, and what it has got
        self.replies = [reply.send.encode() for reply in self.options.get("replies", ())]
        self.decoder.reply_with(self.replies)
        self.message = threading.Lock()  # of one writer at a time
        self.pump = pump
        self.line = pump.adopt(self.ours.fileno(), self.decoder, hub)
        self.ours.close()
        self.ended, self.gone = threading.Event(), threading.Event()
        self.writing = 2
        self.sent = 0  # messages that the peer has sent whole
        self.pings: list[bytes] = []
        self.taken = 0  # by the consumer
        self.last: dict[int | None, int] = {}  # by key where messages are replaced in their place, else of None
        self.conflates = isinstance(self.options.get("overflow"), overflow.Conflate)
        self.cleared = False  # something was thrown away
        self.written = [0, 0]  # frames of each writer

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.messages} messages, {self.options}, {self.end}"

    def start(self) -> None:
        """Start all threads and let the pump read."""
        works: list[Callable[[random.Random], None]] = [self.send, self.listen, self.consume, self.meddle]
        works += [lambda choices, i=i: self.write(choices, i) for i in range(2)]  # type: ignore[misc]
        self.threads = [
            threading.Thread(target=self.guarded, args=(work, random.Random(self.seed * 31 + i)))
            for i, work in enumerate(works)
        ]
        for thread in self.threads:
            thread.start()
        if self.beats_s:
            self.line.begin_beats(b"beat", self.beats_s, False)
        self.line.pause(False)

    def guarded(self, work: Callable[[random.Random], None], choices: random.Random) -> None:
        try:
            work(choices)
        except BaseException as error:
            self.errors.append(error)
            self.line.abort()
            raise

    # The peer

    def send(self, choices: random.Random) -> None:
        """Flood the pump; end the stream as the seed wants it."""
        compressed = "deflate" in self.options
        pending = bytearray()
        try:
            for number in range(self.messages):
                payload = payload_of(number)
                if self.replies and number % KEYS == 0:
                    self.questions += 1
                if compressed and number % 2:
                    pending += frame(Opcode.TEXT, deflate(payload), rsv=4)
                elif self.fragments and number % 5 == 0:
                    cut = choices.randrange(len(payload))
                    pending += frame(Opcode.TEXT, payload[:cut], fin=False)
                    if choices.randrange(2):
                        pending += self.ping()
                    pending += frame(Opcode.CONT, payload[cut:])
                else:
                    pending += frame(Opcode.TEXT if number % 3 else Opcode.BINARY, payload)
                if choices.randrange(20) == 0:
                    pending += self.ping()
                if choices.randrange(8) == 0 or len(pending) > 30_000:
                    cut = choices.randrange(len(pending))
                    self.theirs.sendall(pending[:cut])
                    del pending[:cut]
                if choices.randrange(50) == 0:
                    time.sleep(0.0005)
            if self.end == "violate":
                pending += frame(3, b"no such opcode")
            self.theirs.sendall(pending)
            self.sent = self.messages
            if self.end in ("end", "violate"):
                self.theirs.shutdown(socket.SHUT_WR)
            elif self.end == "close":
                self.line.close()
            elif self.end == "abort":
                self.line.abort()
            elif self.end == "reset":
                self.theirs.shutdown(socket.SHUT_RDWR)
            else:
                self.decoder.discard()
                self.cleared = True
                self.line.abort()
        except OSError:
            if not self.gone.wait(30):
                raise

    def ping(self) -> bytes:
        payload = b"%d" % len(self.pings)
        self.pings.append(payload)
        return frame(Opcode.PING, payload)

    def listen(self, choices: random.Random) -> None:
        """Read what the pump and the writers send: whole frames, each sequence in its order."""
        decoder = FrameDecoder("server", max_size=None, max_queue_bytes=None)
        next_numbers = [0, 0]
        pongs = beats = 0
        while True:
            try:
                data = self.theirs.recv(choices.choice((10, 1000, 100_000)))
            except OSError:
                break
            decoder.feed(data)
            if decoder.violation is not None:
                raise Broken(f"frames were mixed up: {decoder.violation}")
            for message in decoder.take():
                if message in ("reply", "beat"):
                    self.replied += message == "reply"
                    beats += message == "beat"
                    continue
                writer, number = map(int, str(message).split(":")[:2])
                if number != next_numbers[writer]:
                    raise Broken(f"writer {writer}: frame {number} instead of {next_numbers[writer]}")
                next_numbers[writer] += 1
            for opcode, payload in decoder.controls():
                if opcode != Opcode.PONG or payload != self.pings[pongs]:
                    raise Broken(f"control frame {opcode} with {payload!r} instead of pong {pongs}")
                pongs += 1
            if not data:
                break
            if choices.randrange(30) == 0:
                time.sleep(0.001)
        if self.end == "end":
            if pongs != len(self.pings):
                raise Broken(f"{pongs} pongs to {len(self.pings)} pings")
            if self.replied != self.questions:
                raise Broken(f"{self.replied} replies to {self.questions} questions")
            if self.replied + beats != self.line.sent[0]:
                raise Broken(f"{self.replied} replies and {beats} heartbeats of {self.line.sent[0]}")
            if next_numbers != self.written:
                raise Broken(f"{next_numbers} frames came of {self.written}")

    # Our side

    def consume(self, choices: random.Random) -> None:
        """Take messages in every way until nothing more will come."""
        decoder = self.decoder
        slow = choices.choice((0, 0, 0.0002, 0.002))
        ways = [self.by_pop, self.by_pop, self.by_take, self.by_fragment]
        if not self.fragments and self.end != "end":
            ways.append(self.by_clear)
        while True:
            if not decoder.wait(choices.choice((None, 0.001, 0.05))):
                continue
            if choices.randrange(20) == 0:
                ways = ways[1:] + ways[:1]
            for _ in range(choices.randrange(1, 40)):
                ways[0](choices)
                if decoder.resumable:
                    decoder.resume()
            if slow:
                time.sleep(slow)
            if decoder.is_over and self.gone.is_set():
                self.pump.purge()
                while decoder.queued_messages:
                    self.by_pop(choices)
                    decoder.resume()
                if not decoder.resumable:
                    return

    def note(self, message: str | bytes) -> None:
        number = number_of(message)
        key = number % KEYS if self.conflates else None
        last = self.last.get(key, -1)
        self.taken += 1
        if number <= last or (number != last + 1 and not self.cleared and "overflow" not in self.options):
            raise Broken(f"message {number} after message {last}")
        self.last[key] = number

    def by_pop(self, choices: random.Random) -> None:
        message = self.decoder.pop(choices.choice((None, True, False)))
        if message is not None:
            self.note(message)

    def by_take(self, choices: random.Random) -> None:
        for message in self.decoder.take(choices.choice((None, 1, 7))):
            self.note(message)

    def by_fragment(self, choices: random.Random) -> None:
        """A whole message, fragment by fragment: it is there to its end, as `pop` would have given it."""
        if not self.decoder.queued_messages:
            return
        parts = []
        while (fragment := self.decoder.pop_fragment()) is not None:
            parts.append(fragment[2])
            if fragment[1]:
                self.note(b"".join(parts))
                return
        if parts or not self.options.get("overflow"):
            raise Broken(f"{len(parts)} fragments, no end")

    def by_clear(self, choices: random.Random) -> None:
        if choices.randrange(10) == 0:
            self.cleared = True
            self.decoder.clear()

    def meddle(self, choices: random.Random) -> None:
        """Look at figures, which must add up at any time, and change one's mind about reading."""
        decoder, line = self.decoder, self.line
        while not self.gone.is_set():
            match choices.randrange(9):
                case 0:
                    line.pause(True)
                    time.sleep(choices.choice((0, 0.0003)))
                    line.pause(False)
                case 1:
                    before = decoder.messages_received
                    count = decoder.delivered
                    if not 0 <= count <= decoder.messages_received or before > decoder.messages_received:
                        raise Broken(f"{count} delivered of {before}")
                case 2:
                    if decoder.lost.total > decoder.messages_received:
                        raise Broken("more lost than came")
                    decoder.lost_by_key()
                case 3:
                    decoder.step_status()
                    decoder.arm()
                case 4:
                    decoder.timed_controls()
                case 5:
                    _ = decoder.pause, decoder.pings, decoder.oldest_ns, decoder.queued_messages_max
                    unanswered, last = decoder.beats
                    if unanswered > last or (last and not self.beats_s):
                        raise Broken(f"heartbeats at {unanswered} and {last}")
                case 6:
                    _ = decoder.queued_bytes, decoder.queued_frames, decoder.current_size, decoder.partial_frame
                case 7:
                    decoder.notices()
                    decoder.resume()
                case _:
                    line.set_limits(*choices.choice(((65536, 16384), (1000, 0))))
                    _ = line.waiting_bytes, line.error, decoder.violation, decoder.blocked
            time.sleep(choices.choice((0, 0.0001, 0.001)))

    def write(self, choices: random.Random, number: int) -> None:
        """Send numbered frames while pings are answered."""
        encoder = FrameEncoder("client")
        for i in range(choices.randrange(200)):
            if self.gone.is_set() or self.line.waiting_bytes > 1_000_000:
                break
            text = f"{number}:{i}:" + "y" * choices.choice((0, 10, 300, 5000))
            with self.message:
                cut = choices.randrange(len(text)) if choices.randrange(3) == 0 else 0
                if cut:
                    self.line.hold_replies()
                    self.line.write(encoder.encode(Opcode.TEXT, text[:cut].encode(), False))
                    time.sleep(choices.choice((0, 0.001)))
                self.line.write(encoder.encode(Opcode.CONT if cut else Opcode.TEXT, text[cut:].encode()), bool(cut))
            self.written[number] += 1
            if choices.randrange(5) == 0:
                time.sleep(0.0005)
        if self.end == "end":
            self.done_writing()

    def done_writing(self) -> None:
        """The last writer closes the connection once all was answered."""
        with _lock:
            self.writing -= 1
            if self.writing:
                return
        while not self.gone.is_set() and not (
            self.ended.is_set() and self.decoder.pings[0] == len(self.pings) and self.replied == self.questions
        ):
            time.sleep(0.0005)
        self.line.close()

    def finish(self) -> None:
        """Wait for all threads; then nothing may be left, and all accounts add up.

        Raises:
            Broken: If they don't.
        """
        for thread in self.threads:
            thread.join(60)
            if thread.is_alive():
                raise Broken(f"{self}: a thread hangs; {self.state()}")
        self.theirs.close()
        if self.errors:
            raise Broken(f"{self}: {self.errors[0]!r}") from self.errors[0]
        decoder = self.decoder
        lost = decoder.lost.total
        received, delivered, queued = decoder.messages_received, decoder.delivered, decoder.queued_messages
        if received != delivered + queued + lost or delivered != self.taken or queued:
            raise Broken(f"{self}: {self.state()}, {self.taken} taken")
        if self.end == "end" and received != self.sent:
            raise Broken(f"{self}: {received} messages received of {self.sent}")
        if not self.cleared and "overflow" not in self.options and (lost or self.last.get(None, -1) + 1 != received):
            raise Broken(f"{self}: the last message is {self.last} of {received}; {self.state()}")
        if self.end == "violate" and not self.cleared and decoder.violation is None and self.line.error == 0:
            raise Broken(f"{self}: the violation wasn't found; {self.state()}")

    def state(self) -> dict[str, Any]:
        """Figures for who looks for a mistake."""
        names = ("messages_received", "delivered", "queued_messages", "lost", "blocked", "resumable", "violation")
        figures = {name: getattr(self.decoder, name) for name in names} | {"sent": self.sent}
        return figures | {"gone": self.gone.is_set(), "over": self.decoder.is_over, "error": self.line.error}


_lock = threading.Lock()


class Stress:
    """Connections on one pump, and the loop's part: whoever hears what the pump reports.

    Attributes:
        trials: Connections so far.
    """

    def __init__(self, seed: int, connections: int, most_messages: int) -> None:
        self._seeds = itertools.count(seed)
        self._connections = connections
        self._most_messages = most_messages
        self._pump = Pump(name="stress")
        self._hub = Hub()
        self._known: dict[Any, Trial] = {}
        self._stop = threading.Event()
        self.trials = 0

    def hear(self) -> None:
        while not self._stop.is_set() or self._known:
            if not select.select([self._hub.fileno()], [], [], 0.05)[0]:
                continue
            for line, report in self._hub.take():
                trial = self._known[line]
                if report & Hub.GONE:
                    trial.gone.set()
                    del self._known[line]
                    self._pump.purge()
                elif report & Hub.END:
                    trial.ended.set()
                    if trial.end in ("reset", "violate"):
                        line.close()

    def run(self, seconds: float) -> None:
        """Try connections for so long, at least one round.

        Raises:
            Broken: If a promise wasn't kept; the seed is in its text.
        """
        until = time.monotonic() + seconds
        hearing = threading.Thread(target=self.hear)
        hearing.start()
        try:
            while True:
                trials = []
                for _ in range(self._connections):
                    trial = Trial(self._pump, self._hub, next(self._seeds), self._most_messages)
                    self._known[trial.line] = trial
                    trials.append(trial)
                for trial in trials:
                    trial.start()
                for trial in trials:
                    trial.finish()
                self.trials += len(trials)
                if time.monotonic() >= until:
                    break
        finally:
            for line in list(self._known):
                line.abort()
            self._stop.set()
            hearing.join()


@contextlib.contextmanager
def switching(interval_s: float) -> Any:
    """Let threads of Python take turns more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval_s)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--connections", type=int, default=8, help="at a time")
    parser.add_argument("--messages", type=int, default=2000, help="most for a connection")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    before = live_segments()
    stress = Stress(seed, args.connections, args.messages)
    with switching(1e-4):
        stress.run(args.seconds)
    trials = stress.trials
    del stress
    left = live_segments() - before
    print(f"{trials} connections, {left} segments never given back")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
