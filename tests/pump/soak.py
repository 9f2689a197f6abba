"""Whole connections on receive threads for long: floods both ways, slow consumers, rude ends, blocked and closed loops.

Usage: python -m tests.pump.soak [--seconds N] [--seed S] [--tls] [--lives N] [--loop asyncio|uvloop|both]

Clients of fastws talk to servers of fastws in this process, and to one of `websockets` in another, which is killed and
started again. What each connection does follows from the seed: policy, compression, write limit, how it consumes (one
by one, in batches, in a thread, late, not at all), how it sends, when and how it ends. Meanwhile the event loop is
blocked, tasks are cancelled, and in some rounds the loop is closed under everything. Each message has a number:

- what came is what was delivered, lost under a name, or is still queued, at any time and for whoever looks; what the
  consumer has counted agrees;
- messages are in their order, each at most once, and without a lossy policy none is missing;
- if one side has closed cleanly, what came to the other is what it has sent, heartbeats of its pump included;
- connections end in time, and leave no descriptor, no thread, no receive memory and no growing memory behind.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import gc
import itertools
import json
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fastws
from fastws import overflow
from fastws._segment import live_segments
from tests.pump.numbered import BEAT, Broken, Sequence, number_of, payload_of
from tests.pump.soak_peer import CODE_BROKEN

ROOT = Path(__file__).parents[2]
LIFE_S = 30.0
"""No connection takes half of it, blocked loops included."""
RSS_GROWTH_MAX = 24 * 2**20
"""Bytes that memory may grow after warming up: what allocators don't give back varies by a third of it."""
WARM_UP_ROUNDS = 4

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"max_queue": 1},
    {"max_queue": (16, 4)},
    {"max_queue_bytes": 4096},
    {"max_queue": 16, "overflow": overflow.DropOldest()},
    {"max_queue": 1, "overflow": overflow.DropNewest()},
    {"max_queue": 500, "overflow": overflow.Disconnect()},
    {"overflow": overflow.Conflate("/k")},
    {"max_queue": 16, "overflow": overflow.Conflate(lambda message: key_of(message))},
    {"overflow": overflow.DropOldest(), "max_queue_age": 0.002},
)
ENDS = ("close", "close", "early", "abort", "stay", "cancel")
PEER_ENDS = ("close", "close", "early", "abort", "reset", "garbage", "stay")
# Any message is an answer; here there needn't be one.
HEARTBEATS = (None, None, fastws.Heartbeat(0.02, BEAT, timeout=2 * LIFE_S))


def key_of(message: str | bytes) -> str:
    return "beat" if message in (BEAT, BEAT.encode()) else f"k{number_of(message) % 5}"


def options_of(choices: random.Random, pumps: list[fastws.Pump]) -> dict[str, Any]:
    """Options of a connection."""
    return {
        **choices.choice(POLICIES),
        "compression": choices.choice((None, "deflate")),
        "write_limit": choices.choice((32768, 1000)),
        "ping_interval": choices.choice((None, 0.05)),
        "heartbeat": choices.choice(HEARTBEATS),
        "max_size": None,
        "close_timeout": 2.0,
        "on_close": choices.choice(("drain", "drain", "raise")),
        "receive": choices.choice(("thread", *pumps)),
    }


class Life:
    """One connection of fastws from the opening handshake to its end.

    Args:
        seed: What follows from it.
        options: Of the connection.
        count: Messages to send.
        end: How it shall end, if the peer doesn't end it before.
        beaten: Whether the peer sends heartbeats.
    """

    def __init__(self, seed: int, options: dict[str, Any], count: int, end: str, *, beaten: bool) -> None:
        self.seed = seed
        self.options = options
        self.count = count
        self.end = end
        self.beaten = beaten
        self.choices = random.Random(seed)
        policy = options.get("overflow")
        self.sequence = Sequence(lossy=policy is not None, conflates=isinstance(policy, overflow.Conflate))
        self.sent = 0
        self.over = self.stopped = False
        ways: list[Callable[[Any], Any]] = [self.by_recv, self.by_iteration, self.by_batch, self.by_batches]
        ways += [self.by_thread, self.by_fragments, self.idle]
        self.ways = self.choices.sample(ways, self.choices.randrange(1, 4))
        self.late_s = self.choices.choice((0.0, 0.0, 0.0, 0.4))
        self.slow_s = self.choices.choice((0.0, 0.0, 0.001))
        self.limit_s = self.choices.uniform(0.2, 3.0)

    def __str__(self) -> str:
        ways = [way.__name__ for way in self.ways]
        return f"seed {self.seed}: {self.options}, {self.count} to send, {self.end} within {self.limit_s:.1f} s, {ways}"

    async def live(self, ws: Any) -> None:
        """Do it all.

        Raises:
            Broken: If a promise wasn't kept.
        """
        if ws.stats.receive != "thread":
            raise Broken(f"{self}: {ws.stats.receive} receives")
        works = [self.consume, self.send, self.meddle]
        tasks = [asyncio.create_task(self.until_closed(work(ws))) for work in works]
        try:
            async with asyncio.timeout(LIFE_S):
                await self.finish(ws, tasks)
                await ws.wait_closed()
                await asyncio.gather(*tasks, return_exceptions=self.end == "cancel")
        except TimeoutError:
            raise Broken(f"{self}: hangs, {ws.state!r}, {ws.stats}") from None
        except Broken as exc:
            raise Broken(f"{self}: {exc}") from None
        finally:
            self.stopped = True
            for task in tasks:
                task.cancel()
        self.check(ws)

    @staticmethod
    async def until_closed(work: Any) -> None:
        with contextlib.suppress(fastws.ConnectionClosed):
            await work

    async def finish(self, ws: Any, tasks: list[asyncio.Task[None]]) -> None:
        closed = asyncio.create_task(ws.wait_closed())
        wanted = {closed, tasks[1]} if self.end == "close" else {closed}
        await asyncio.wait(wanted, timeout=self.limit_s, return_when=asyncio.FIRST_COMPLETED)
        if self.end == "abort":
            ws.transport.abort()
        elif self.end == "cancel":
            for task in tasks:
                task.cancel()
        if self.end == "close" and self.sent == self.count:
            await ws.close(1000, str(self.sent))
        else:
            await ws.close(1001)
        await closed

    def check(self, ws: Any) -> None:
        """At the end, all adds up."""
        self.add_up(ws)
        stats, protocol = ws.stats, ws.protocol
        taken = self.sequence.taken
        if stats.delivered != taken:
            raise Broken(f"{self}: {taken} taken, {stats}")
        received_first = protocol.close_rcvd is not None and protocol.close_rcvd_then_sent
        if received_first and ws.close_code == 1000:
            beats = stats.messages_in - int(ws.close_reason)
            if beats < 0 or (beats and not self.beaten):
                raise Broken(f"{self}: {ws.close_reason} were sent, {stats}")
        if not self.sequence.lossy:
            # Nothing is thrown away but at the end, if at all.
            last = self.sequence.last.get(None, -1)
            if last + 1 + self.sequence.beats + stats.queued_messages + stats.lost.total != stats.messages_in:
                raise Broken(f"{self}: the last was {last}, {stats}")
            if received_first and self.options["on_close"] == "drain" and stats.lost.total:
                raise Broken(f"{self}: lost, {stats}")

    def add_up(self, ws: Any) -> None:
        stats = ws.stats
        known = stats.delivered + stats.answered + stats.queued_messages + stats.lost.total
        if stats.messages_in != known:
            raise Broken(f"{self}: {stats.messages_in} came, {known} are known of: {stats}")

    async def meddle(self, ws: Any) -> None:
        """Look at figures, and ping."""
        while True:
            self.add_up(ws)
            if self.choices.randrange(3) == 0:
                await ws.ping()
            await asyncio.sleep(self.choices.choice((0, 0.01, 0.1)))

    # Sending

    async def send(self, ws: Any) -> None:
        burst = self.choices.choice((1, 20, 200))
        while self.sent < self.count:
            size = min(burst, self.count - self.sent)
            texts = [payload_of(number) for number in range(self.sent, self.sent + size)]
            if size > 1 and self.choices.randrange(2):
                await ws.send_batch(texts)
                self.sent += size
            else:
                for text in texts:
                    await ws.send([text[:20], text[20:]] if self.choices.randrange(20) == 0 else text)
                    self.sent += 1
            await asyncio.sleep(self.choices.choice((0, 0, 0.001, 0.005)))

    # Receiving

    async def consume(self, ws: Any) -> None:
        """In changing ways, until there is nothing more."""
        await asyncio.sleep(self.late_s)
        while not self.over:
            await self.choices.choice(self.ways)(ws)

    async def took(self, message: Any) -> None:
        self.sequence.note(message)
        if self.slow_s and self.sequence.taken % 20 == 0:
            await asyncio.sleep(self.slow_s)

    async def by_recv(self, ws: Any) -> None:
        with contextlib.suppress(TimeoutError):
            for _ in range(30):
                async with asyncio.timeout(self.choices.choice((None, 0.001))):
                    message = await ws.recv(self.choices.choice((None, True, False)))
                await self.took(message)

    async def by_fragments(self, ws: Any) -> None:
        for _ in range(30):
            fragments = [fragment async for fragment in ws.recv_streaming()]
            await self.took((b"" if isinstance(fragments[0], bytes) else "").join(fragments))

    async def by_iteration(self, ws: Any) -> None:
        left = self.choices.randrange(1, 200)
        async for message in ws:
            await self.took(message)
            left -= 1
            if not left:
                return
        self.over = True

    async def by_batch(self, ws: Any) -> None:
        for message in await ws.recv_batch(self.choices.choice((None, 1, 7))):
            self.sequence.note(message)
        await asyncio.sleep(self.slow_s)

    async def by_batches(self, ws: Any) -> None:
        left = self.choices.randrange(1, 20)
        batches = ws.batches(self.choices.choice((None, 7)), self.choices.choice((0.0, 0.002)))
        async with contextlib.aclosing(batches):
            async for batch in batches:
                # All of it was delivered: no suspension, where a task may be cancelled, before all is counted.
                for message in batch:
                    self.sequence.note(message)
                await asyncio.sleep(self.slow_s)
                left -= 1
                if not left:
                    return
        self.over = True

    async def by_thread(self, ws: Any) -> None:
        thread = asyncio.ensure_future(asyncio.to_thread(self.in_thread, ws))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            # A thread can't be cancelled.
            self.stopped = True
            with contextlib.suppress(fastws.ConnectionClosed):
                await thread
            raise

    def in_thread(self, ws: Any) -> None:
        left = random.Random(self.seed + self.sequence.taken).randrange(1, 20)
        with contextlib.suppress(TimeoutError):
            for batch in ws.iter_batches(max_messages=None if left % 2 else 7, timeout=0.05):
                for message in batch:
                    self.sequence.note(message)
                left -= 1
                if self.slow_s:
                    time.sleep(self.slow_s)
                if not left or self.stopped:
                    return
            self.over = True

    async def idle(self, ws: Any) -> None:
        """Take nothing for a while, or until the connection is closed if there is no other way."""
        await asyncio.sleep(self.choices.choice((0.05, 1.0)))
        if len(self.ways) == 1:
            await ws.wait_closed()
        self.ways = [way for way in self.ways if way != self.idle] or [self.by_batch]


class Accounts:
    """What one side has sent, and what the other says that came, of connections that were closed in order.

    Any thread may note; what disagrees is for others to look at.

    Attributes:
        errors: What disagrees.
        agreed: Connections of which both sides have said the same.
    """

    def __init__(self, errors: list[str]) -> None:
        self.errors = errors
        self.agreed = 0
        self._lock = threading.Lock()
        self._noted: dict[int, tuple[str, int]] = {}

    def note(self, number: int, side: str, messages: int) -> None:
        """Of the connection of this number, ``side`` ("out" or "in") has so many messages."""
        with self._lock:
            other_side, other = self._noted.setdefault(number, (side, messages))
            if other_side == side:
                return  # the other one is to come, or both have closed at once
            self.agreed += other == messages
            if other != messages:
                self.errors.append(f"connection {number}: {messages} messages {side}, {other} {other_side}")
            del self._noted[number]

    def note_end(self, number: int, ws: Any) -> None:
        """A connection has ended: what counts is what the side that has closed first had sent until then."""
        protocol = ws.protocol
        if ws.close_code == 1000 and protocol.close_rcvd is not None and protocol.close_sent is not None:
            if protocol.close_rcvd_then_sent:
                self.note(number, "in", ws.stats.messages_in)
            else:
                self.note(number, "out", ws.stats.messages_out)


class Peer:
    """The process of `websockets`; another one each time that it was killed."""

    def __init__(self, tls: tuple[Path, Path] | None, accounts: Accounts) -> None:
        self._arguments = [] if tls is None else ["--cert", str(tls[0]), "--key", str(tls[1])]
        self._accounts = accounts
        self.kills = 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pump.soak_peer", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,))
        self._listener.start()

    def _listen(self, lines: Any) -> None:
        for line in lines:
            # The last one may be cut.
            if line.endswith("\n"):
                number, messages = map(int, line.split())
                self._accounts.note(number, "in", messages)

    def check(self) -> None:
        """What it has found breaks the soak."""
        if self._process.poll() == CODE_BROKEN:
            raise Broken("the peer has found what it says above")

    def kill(self) -> None:
        self.check()
        self.end()
        self.kills += 1
        self.start()

    def end(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self.check()


class Soak:
    """Rounds of lives, each on a loop of its own.

    Attributes:
        counts: What has happened how often.
        rss: Resident bytes after each round.
    """

    def __init__(self, seed: int, lives: int, tls: tuple[Path, Path] | None, loops: list[Any]) -> None:
        self._choices = random.Random(seed)
        self._lives = lives
        self._loops = loops
        self._tls = tls
        self._errors: list[str] = []
        self._accounts = Accounts(self._errors)
        self._numbers = itertools.count()
        self._peer = Peer(tls, self._accounts)
        self._pumps = [fastws.Pump(name="soak")]
        self.counts: collections.Counter[str] = collections.Counter()
        self.rss: list[int] = []
        self._client: dict[str, Any] = {}
        self._server: dict[str, Any] = {}
        if tls is not None:
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(*tls)
            self._server = {"ssl": server}
            self._client = {"ssl": ssl.create_default_context(cafile=str(tls[0]))}

    def run(self, seconds: float, round_s: float, *, rss: bool = True) -> None:
        """One round at least on each loop.

        Raises:
            Broken: If a promise wasn't kept.
        """
        for new_loop in self._loops:
            # What a first one leaves for all.
            new_loop().close()
        until = time.monotonic() + seconds
        # TLS on uvloop makes a pair of sockets, once.
        descriptors = self.descriptors() + (2 if self._tls else 0)
        segments = live_segments()
        number = 0
        try:
            while number < len(self._loops) or time.monotonic() < until:
                abandon = self._choices.randrange(3) == 0
                # What is closed with its loop has something to say.
                with unraisable_ignored() if abandon else contextlib.nullcontext():
                    self.round(self._loops[number % len(self._loops)], round_s, abandon)
                    self.settle(descriptors, segments)
                number += 1
                self.rss.append(resident())
        finally:
            self._peer.end()
        self.counts.update({"rounds": number, "kills": self._peer.kills, "agreed with the peer": self._accounts.agreed})
        warm = self.rss[WARM_UP_ROUNDS:]
        if rss and len(warm) > WARM_UP_ROUNDS:
            growth = min(warm[-WARM_UP_ROUNDS:]) - warm[0]
            if growth > RSS_GROWTH_MAX:
                raise Broken(f"memory has grown by {growth >> 20} MiB after warming up: {self.rss}")

    def round(self, new_loop: Callable[[], asyncio.AbstractEventLoop], seconds: float, abandon: bool) -> None:
        loop = new_loop()
        loop.set_exception_handler(lambda loop, context: self._errors.append(f"the loop reported {context}"))
        try:
            loop.run_until_complete(self.lives(seconds, abandon))
            if not abandon:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            tasks = asyncio.all_tasks(loop)
            loop.set_exception_handler(lambda loop, context: None)
            loop.close()
            if abandon:
                self.counts["loops closed under connections"] += 1
                self.forget(tasks)
        if self._errors:
            raise Broken(self._errors[0])

    @staticmethod
    def forget(tasks: set[asyncio.Task[Any]]) -> None:
        """Their loop is closed.

        In CPython 3.11, a coroutine that a task's last reference is in may crash the interpreter when the collector
        finds it.
        """
        for task in tasks:
            # They want to say something to the loop, or to wait.
            with contextlib.suppress(RuntimeError):
                task.get_coro().close()

    async def lives(self, seconds: float, abandon: bool) -> None:
        until = time.monotonic() + seconds
        options = [options_of(self._choices, self._pumps) for _ in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await fastws.serve(self.handler(each), "127.0.0.1", 0, **self._server, **each) for each in options
            ]
            if not abandon:
                for server in servers:
                    await stack.enter_async_context(server)
            ports = [server.sockets[0].getsockname()[1] for server in servers]
            servers_beat = [each["heartbeat"] is not None for each in options]
            tasks = [
                asyncio.create_task(self.clients(list(zip(ports, servers_beat, strict=True)), until, abandon))
                for _ in range(self._lives)
            ]
            tasks += [asyncio.create_task(work(until)) for work in (self.block, self.kill)]
            if abandon:
                await asyncio.wait(tasks, timeout=seconds)
                return
            await asyncio.gather(*tasks)

    def handler(self, options: dict[str, Any]) -> Callable[[Any], Any]:
        async def handle(ws: Any) -> None:
            plan = json.loads(unquote(ws.request.path[1:]))
            life = Life(plan["seed"], options, plan["count"], plan["end"], beaten=plan["beats"])
            await self.live(life, ws, plan["number"])

        return handle

    async def live(self, life: Life, ws: Any, number: int) -> None:
        try:
            await life.live(ws)
            self._accounts.note_end(number, ws)
        except Broken as exc:
            self._errors.append(str(exc))
        stats = ws.stats
        self.counts.update(
            {
                "connections": 1,
                "messages in": stats.messages_in,
                "messages out": stats.messages_out,
                "lost under a name": stats.lost.total,
                "pauses": stats.pauses,
                "pings answered": stats.pings_in,
                "heartbeats taken": life.sequence.beats,
                f"ended with {ws.close_code}": 1,
            }
        )

    async def clients(self, servers: list[tuple[int, bool]], until: float, abandon: bool) -> None:
        """One connection after the other."""
        choices = random.Random(self._choices.randrange(2**32))
        while (time.monotonic() < until or abandon) and not self._errors:
            own = choices.randrange(2)
            options = options_of(choices, self._pumps)
            number = next(self._numbers)
            plan = {
                "number": number,
                "seed": choices.randrange(2**32),
                "count": choices.choice((0, 1, 100, 1000, 3000)),
                "end": choices.choice(ENDS if own else PEER_ENDS),
                "beats": options["heartbeat"] is not None,
            }
            port, beaten = choices.choice(servers) if own else (self._peer.port, False)
            count = choices.choice((0, 1, 100, 1000))
            life = Life(choices.randrange(2**32), options, count, choices.choice(ENDS), beaten=beaten)
            uri = f"ws{'s' if self._tls else ''}://127.0.0.1:{port}/{quote(json.dumps(plan))}"
            try:
                ws = await fastws.connect(uri, **self._client, **options)
            except (OSError, fastws.InvalidHandshake, fastws.ConnectionClosed):
                # It was killed meanwhile, or a blocked loop took the time.
                self.counts["not connected"] += 1
                continue
            await self.live(life, ws, number)

    async def block(self, until: float) -> None:
        """Let nothing run on the loop for a while, now and then."""
        while time.monotonic() < until:
            await asyncio.sleep(self._choices.uniform(0.05, 0.5))
            blocked_until = time.monotonic() + self._choices.choice((0.01, 0.1, 0.3))
            if self._choices.randrange(2):
                time.sleep(blocked_until - time.monotonic())  # noqa: ASYNC251  On purpose.
            while time.monotonic() < blocked_until:
                sum(range(1000))
            self.counts["blockades"] += 1

    async def kill(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self._choices.uniform(0.3, 3.0))
            await asyncio.to_thread(self._peer.kill if self._choices.randrange(2) else self._peer.check)

    # What is left behind

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def settle(self, descriptors: int, segments: int) -> None:
        """Nothing is left of a round."""
        deadline = time.monotonic() + 10.0
        while True:
            gc.collect()
            left = {
                "connections of pumps": sum(pump.connections for pump in [fastws.pumping.default_pump(), *self._pumps]),
                "threads of pumps": len([name for name in thread_names() if name in ("fastws-pump", "soak")]),
                "descriptors": max(0, self.descriptors() - descriptors),
                "segments": max(0, live_segments() - segments),
            }
            if not any(left.values()):
                return
            if time.monotonic() > deadline:
                raise Broken(f"a round has left {left}")
            time.sleep(0.02)


@contextlib.contextmanager
def unraisable_ignored() -> Iterator[None]:
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def thread_names() -> Iterator[str]:
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            yield (thread / "comm").read_text().strip()


def resident() -> int:
    """Resident memory, without what the allocator could give back."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def loop_factories(name: str) -> list[Callable[[], asyncio.AbstractEventLoop]]:
    import uvloop

    return {
        "asyncio": [asyncio.SelectorEventLoop],
        "uvloop": [uvloop.new_event_loop],
        "both": [asyncio.SelectorEventLoop, uvloop.new_event_loop],
    }[name]


@contextlib.contextmanager
def certificate(wanted: bool) -> Iterator[tuple[Path, Path] | None]:
    """(certificate, key), or None."""
    from tests.interop.certificate import make_certificate

    with tempfile.TemporaryDirectory() as folder:
        made = make_certificate(Path(folder)) if wanted else None
        if wanted and made is None:
            sys.exit("TLS needs the package cryptography or the command openssl to make a certificate")
        yield None if made is None else (made.cert, made.key)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--lives", type=int, default=12, help="clients at a time")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "both"), default="both")
    parser.add_argument("--round", type=float, default=5.0, help="seconds that a loop lives")
    parser.add_argument("--no-rss", action="store_true", help="resident memory says nothing, as under a sanitizer")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    # Rude ends are on purpose.
    logging.disable()
    started = time.process_time()
    with certificate(args.tls) as tls:
        soak = Soak(seed, args.lives, tls, loop_factories(args.loop))
        soak.run(args.seconds, args.round, rss=not args.no_rss)
    for name, count in sorted(soak.counts.items()):
        print(f"{count:12,} {name}")
    print(f"{time.process_time() - started:.0f} s of CPU; resident MiB after each round:")
    print(*[size >> 20 for size in soak.rss])
    return 0


if __name__ == "__main__":
    sys.exit(main())
