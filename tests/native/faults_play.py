"""One connection to the peer of faults.py, and whether it kept what fastws promises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake

import fastws
import fastws.sync
from fastws._segment import live_segments
from fastws.pumping import default_pump

from .faults_peer import ANSWER, ASK, BEAT, DONE, KEYS, Plan, number_of, payload_of

HANG_S = 20.0
RETRIES_MAX = 200
"""Times that a call may say in one connection that there is no memory."""
SETTLE_S = 5.0


class Broken(AssertionError):
    """A promise wasn't kept."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """How to talk to the peer.

    Attributes:
        options: Of `connect`.
        tls: Whether it is encrypted.
        sync: Without asyncio.
        lossy: Messages may be lost, if they are counted.
        conflates: Those of a key take the places of others.
        slow_s: Between two messages.
    """

    options: dict[str, Any]
    tls: bool = False
    sync: bool = False
    lossy: bool = False
    conflates: bool = False
    slow_s: float = 0.0

    @property
    def asks(self) -> bool:
        return "replies" in self.options


_PLAIN: dict[str, Any] = {"compression": None}
_SMALL = {"max_queue": 6, "compression": None}
_ANSWERS = {
    "replies": [fastws.Reply({"/op": "ask"}, ANSWER)],
    "heartbeat": fastws.Heartbeat(0.004, BEAT, timeout=HANG_S),
    "inspect": fastws.Inspect("/n"),
}

SCENARIOS = {
    "thread": Scenario(_PLAIN | {"receive": "thread"}),
    "thread-tls": Scenario(_PLAIN | {"receive": "thread"}, tls=True),
    "thread-deflate": Scenario({"receive": "thread"}),
    "thread-answers": Scenario(_PLAIN | _ANSWERS | {"receive": "thread"}),
    "thread-latest": Scenario(
        _SMALL | {"receive": "thread", "overflow": fastws.Conflate("/k")}, lossy=True, conflates=True, slow_s=0.001
    ),
    "thread-oldest": Scenario(
        _SMALL | {"receive": "thread", "overflow": fastws.DropOldest()}, lossy=True, slow_s=0.001
    ),
    "thread-blocks": Scenario(_SMALL | {"receive": "thread"}, slow_s=0.0005),
    "sync": Scenario(_PLAIN, sync=True),
    "sync-deflate": Scenario({}, sync=True),
    "loop": Scenario(_PLAIN | {"receive": "loop"}),
    "loop-tls": Scenario(_PLAIN | {"receive": "loop"}, tls=True),
    "loop-deflate": Scenario({"receive": "loop"}),
    "loop-answers": Scenario(_PLAIN | _ANSWERS | {"receive": "loop"}),
    "loop-latest": Scenario(
        _SMALL | {"receive": "loop", "overflow": fastws.Conflate("/k")}, lossy=True, conflates=True, slow_s=0.001
    ),
}


@dataclasses.dataclass
class Peer:
    """Where the peer listens."""

    port: int
    tls_port: int = 0
    context: ssl.SSLContext | None = None

    def uri(self, scenario: Scenario, plan: Plan) -> str:
        if scenario.tls:
            return f"wss://localhost:{self.tls_port}{plan.path}"
        return f"ws://127.0.0.1:{self.port}{plan.path}"

    def options(self, scenario: Scenario) -> dict[str, Any]:
        more = {"ssl": self.context} if scenario.tls else {}
        return (
            {"ping_interval": None, "close_timeout": 2.0, "proxy": None, "open_timeout": 2.0} | more | scenario.options
        )


class Taken:
    """What a consumer has got."""

    def __init__(self, scenario: Scenario, plan: Plan) -> None:
        self.scenario, self.plan = scenario, plan
        self.count = 0
        self.done = False
        self.last: dict[int | None, int] = {}
        self.no_memory = 0

    def note(self, message: Any) -> None:
        self.count += 1
        if message == DONE:
            self.done = True
            return
        if message == ASK and self.scenario.asks:
            raise Broken("what a reply was to take came to the consumer")
        try:
            number = number_of(message)
        except (ValueError, IndexError) as exc:
            raise Broken(f"got {message[:100]!r}: {exc}") from None
        key = number % KEYS if self.scenario.conflates else None
        last = self.last.get(key, -1)
        if number <= last or (number != last + 1 and not self.scenario.lossy):
            raise Broken(f"message {number} after message {last}")
        self.last[key] = number

    @property
    def complete(self) -> bool:
        """Whether the last message has come, of each key."""
        count = self.plan.count
        wanted = {number % KEYS: number for number in range(count)} if self.scenario.conflates else {None: count - 1}
        return self.done and self.last == wanted

    @contextlib.contextmanager
    def forgives(self) -> Iterator[None]:
        """Who is told that there is no memory may try again."""
        try:
            yield
        except MemoryError:
            self.no_memory += 1
            if self.no_memory > RETRIES_MAX:
                raise Broken("there is no memory for ever") from None


def out(number: int) -> Any:
    """What is sent: str, bytes, fragments."""
    text = payload_of(number)
    if number % 10 == 4:
        return [text[:5], text[5:20], text[20:]]
    return text.encode() if number % 3 == 0 else text


async def send_all(ws: Any, taken: Taken) -> None:
    number = 0
    while number < taken.plan.expect:
        with taken.forgives():
            if number % 10 == 7:
                some = range(number, min(number + 3, taken.plan.expect))
                await ws.send_batch([payload_of(n) for n in some])
                number = some.stop
            else:
                message = out(number)
                await ws.send(message)
                number += 1
        if number % 4 == 0:
            await asyncio.sleep(0.001)


async def receive_all(ws: Any, taken: Taken) -> None:
    """Until all is there, in all ways."""
    ways = 1 if taken.scenario.lossy else 4
    while not taken.complete:
        way = taken.count // 4 % ways
        if taken.scenario.slow_s:
            await asyncio.sleep(taken.scenario.slow_s)
        with taken.forgives():
            if way == 0:
                taken.note(await ws.recv())
            elif way == 1:
                for message in await ws.recv_batch(10):
                    taken.note(message)
            elif way == 2:
                pieces = [piece async for piece in ws.recv_streaming()]
                taken.note(type(pieces[0])().join(pieces))
            else:
                most = taken.count + 4
                async for message in ws:
                    taken.note(message)
                    if taken.complete or taken.count >= most:
                        break
                else:
                    raise Broken("the iteration ended in the middle")


async def talk(uri: str, options: dict[str, Any], taken: Taken, hear: Callable[[Any], None]) -> Any:
    """Returns the connection."""
    async with fastws.connect(uri, **options) as ws:
        hear(ws)
        sending = asyncio.create_task(send_all(ws, taken))
        try:
            await receive_all(ws, taken)
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def talk_sync(uri: str, options: dict[str, Any], taken: Taken, hear: Callable[[Any], None]) -> None:
    with fastws.sync.connect(uri, **options) as ws:
        hear(ws)
        number = 0
        while not taken.complete:
            way = taken.count // 4 % 4
            with taken.forgives():
                if number < taken.plan.expect:
                    if number % 10 == 7:
                        some = range(number, min(number + 3, taken.plan.expect))
                        ws.send_batch([payload_of(n) for n in some])
                        number = some.stop
                    else:
                        message = out(number)
                        ws.send(message)
                        number += 1
            with taken.forgives():
                if way == 0:
                    taken.note(ws.recv(timeout=HANG_S))
                elif way == 1:
                    for message in ws.recv_batch(10, timeout=HANG_S):
                        taken.note(message)
                elif way == 2:
                    pieces = list(ws.recv_streaming())
                    taken.note(type(pieces[0])().join(pieces))
                else:
                    for message in ws:
                        taken.note(message)
                        break
                    else:
                        raise Broken("the iteration ended in the middle")


def causes(exc: BaseException | None) -> list[str]:
    """Its name and text, and those of what it comes from."""
    found = []
    while exc is not None:
        found.append(f"{type(exc).__name__}: {exc}"[:200])
        exc = exc.__cause__ or exc.__context__
    return found


def check_accounts(ws: Any, taken: Taken, *, ended: bool) -> None:
    stats = ws.stats
    told = stats.delivered + stats.answered + stats.queued_messages + stats.lost.total
    if stats.messages_in != told:
        raise Broken(f"{stats.messages_in} messages came in, {told} are accounted for: {stats}")
    if stats.delivered != taken.count:
        raise Broken(f"{stats.delivered} messages count as delivered, {taken.count} were: {stats}")
    if stats.lost.total and not taken.scenario.lossy and not ended:
        raise Broken(f"messages were lost: {stats.lost}")


def play(scenario: Scenario, peer: Peer, plan: Plan) -> dict[str, Any]:
    """Talk to the peer once.

    Returns:
        ``raised``: a list of causes, empty if all went well; ``opened``: whether the connection was; ``no_memory``:
        how many calls said that there is none.

    Raises:
        Broken: If a promise wasn't kept.
    """
    taken = Taken(scenario, plan)
    heard: list[Any] = []
    raised: list[str] = []
    uri, options = peer.uri(scenario, plan), peer.options(scenario)
    problems: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(problem(context)))
        async with asyncio.timeout(HANG_S):
            await talk(uri, options, taken, heard.append)

    try:
        if scenario.sync:
            talk_sync(uri, options, taken, heard.append)
        else:
            asyncio.run(run())
    except TimeoutError as exc:
        if heard:
            raise Broken(f"it hangs: {taken.count} messages taken, {heard[0].stats}; the loop: {problems}") from None
        # The opening handshake is of websockets, and memory of its zlib was what failed.
        raised = causes(exc)
    except (ConnectionClosed, InvalidHandshake, MemoryError, OSError) as exc:
        raised = causes(exc)
        if isinstance(exc, ConnectionClosedOK):
            raise Broken(f"closed as if all was well: {raised}") from None
        if isinstance(exc, ConnectionClosed) and len(raised) == 1:
            raise Broken(f"closed without a reason: {raised}; the loop: {problems}") from None
    except Broken as exc:
        raise Broken(f"{exc}; the loop: {problems}") from None
    if heard:
        if raised and not scenario.sync:
            # What waits is taken to the end: it is lost for nobody.
            asyncio.run(drain(heard[0], taken))
        check_accounts(heard[0], taken, ended=bool(raised))
    return {"raised": raised, "opened": bool(heard), "no_memory": taken.no_memory, "problems": problems}


async def drain(ws: Any, taken: Taken) -> None:
    decoder = ws._decoder
    while decoder is not None and decoder.queued_messages:
        if (message := decoder.pop()) is None:
            break
        taken.note(message)


def problem(context: dict[str, Any]) -> str:
    return f"{context['message']}: {causes(context.get('exception'))}"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settle(open_before: int) -> None:
    """Wait until nothing is left of connections.

    Raises:
        Broken: If something is.
    """
    import gc

    gc.collect()
    deadline = time.monotonic() + SETTLE_S
    pump = default_pump()
    while time.monotonic() < deadline:
        pump.purge()
        gc.collect()
        left = (pump.connections, live_segments(), descriptors() - open_before)
        if left == (0, 0, 0):
            return
        time.sleep(0.01)
    raise Broken("left behind: {} connections, {} segments, {} descriptors".format(*left))
