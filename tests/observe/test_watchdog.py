"""``Watchdog``: who is stuck is told while it is stuck, with the place, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import logging
import subprocess
import sys
import threading
import time
import weakref

import pytest
from connection.net import on_asyncio, over_loops, pair, until

import fastws
from fastws.observe.stats import Stats
from fastws.observe.watchdog import StuckReport, Watchdog

QUICK = {"blocked_after": 0.2, "consumer_after": 0.2, "interval": 0.02}
STUCK_S = 0.6


class Reports(list[StuckReport]):
    """Takes reports, with the time and thread they came in."""

    def __init__(self):
        super().__init__()
        self.at = []
        self.threads = set()

    def __call__(self, report):
        self.at.append(time.monotonic())
        self.threads.add(threading.current_thread().name)
        self.append(report)

    @property
    def phases(self):
        return [(report.what, report.phase) for report in self]


class Fake:
    """A connection with the figures that a test gives it."""

    ping_timeout = 20.0
    remote_address = ("192.0.2.1", 80)

    def __init__(self, **figures):
        self.stats = Stats(**figures)
        self._consumer = weakref.ref(asyncio.current_task())


def line_of(function, text):
    """Line number of ``text`` in ``function``."""
    lines, start = inspect.getsourcelines(function)
    (index,) = (index for index, line in enumerate(lines) if text in line and "line_of" not in line)
    return start + index


def block():
    time.sleep(STUCK_S)


def compute():
    end = time.monotonic() + STUCK_S
    while time.monotonic() < end:
        pass


# The loop


@pytest.mark.parametrize("blocking", [block, compute])
@over_loops
async def test_blocked_loop(blocking):
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports):
        await asyncio.sleep(0.1)
        before, wall = time.monotonic(), time.time()
        blocking()
        after = time.monotonic()
        await until(lambda: len(reports) == 2)
    assert reports.phases == [("loop", "stuck"), ("loop", "over")]
    stuck, over = reports
    # While it is stuck, from another thread.
    assert before + 0.2 <= reports.at[0] < after
    assert reports.threads == {"fastws.watchdog"}
    assert stuck.file == __file__
    assert stuck.function == blocking.__name__
    lines, start = inspect.getsourcelines(blocking)
    assert start < stuck.line < start + len(lines)
    assert "in test_blocked_loop" in stuck.stack
    assert stuck.task == asyncio.current_task().get_name()
    assert abs(stuck.since - wall) < 0.1
    assert 0.2 <= stuck.stuck_s < STUCK_S
    assert STUCK_S - 0.05 <= over.stuck_s < STUCK_S + 0.3
    assert ("blocking call" if blocking is block else "computes") in stuck.cause
    assert 'executor="thread"' in stuck.cure if blocking is block else 'executor="process"' in stuck.cure


@on_asyncio
async def test_loop_that_is_not_blocked():
    """Neither many short turns nor one that is nearly too long."""
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports):
        for _ in range(10):
            time.sleep(0.05)  # noqa: ASYNC251
            await asyncio.sleep(0)
        await asyncio.sleep(0.15)
    assert not reports


@on_asyncio
async def test_code_that_holds_the_gil():
    """The thread can't run meanwhile: it tells as soon as it can, with the place if there is one."""
    reports = Reports()
    hold = ctypes.PyDLL(None).usleep
    async with Watchdog(**QUICK, on_report=reports):
        await asyncio.sleep(0.1)
        before = time.monotonic()
        hold(int(STUCK_S * 1e6))
        held = time.monotonic()
        await until(lambda: len(reports) == 2)
    assert reports.phases == [("loop", "stuck"), ("loop", "over")]
    assert reports.at[0] < held + 0.2
    assert reports[0].stuck_s >= STUCK_S - 0.05
    assert STUCK_S - 0.05 <= reports[1].stuck_s < held - before + 0.2
    assert reports[0].stack or "GIL" in reports[0].cause


@on_asyncio
async def test_block_that_only_the_loop_has_noticed():
    """As when the thread didn't get the GIL before the loop went on."""
    reports = Reports()
    watchdog = Watchdog(**QUICK, on_report=reports)
    now = time.monotonic()
    watchdog._loop = asyncio.get_running_loop()
    watchdog._late.append((now - 0.3, now - 0.1))
    watchdog._check(now)
    assert reports.phases == [("loop", "stuck"), ("loop", "over")]
    assert reports[0].file is None
    assert "GIL" in reports[0].cause
    assert reports[1].stuck_s == pytest.approx(0.2)


def test_loop_at_rest_is_not_blocked():
    reports = Reports()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        with Watchdog(loop, **QUICK, on_report=reports):
            for _ in range(2):
                runner.run(asyncio.sleep(0.05))
                time.sleep(0.4)
            runner.run(asyncio.sleep(0.05))
            assert not reports
            runner.run(asyncio.to_thread(runner.get_loop().call_soon_threadsafe, block))
            runner.run(asyncio.sleep(0.05))
        assert reports.phases == [("loop", "stuck"), ("loop", "over")]
        assert reports[0].function == "block"


def test_loop_that_is_closed_meanwhile():
    reports = Reports()

    async def enter():
        return watchdog.__enter__()

    watchdog = Watchdog(**QUICK, on_report=reports)
    asyncio.run(enter())
    watchdog._thread.join(1)
    assert not watchdog._thread.is_alive()
    watchdog.__exit__(None, None, None)
    assert not reports


@on_asyncio
async def test_each_episode_is_told_once():
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports):
        await asyncio.sleep(0.05)
        for count in (2, 4):
            block()
            await until(lambda count=count: len(reports) == count)
    assert [report.phase for report in reports] == ["stuck", "over", "stuck", "over"]


# Consumers


async def think(seconds):
    await asyncio.sleep(seconds)


@over_loops
async def test_consumer_that_is_stuck(caplog):
    reports = Reports()

    async def consume(ws):
        watchdog.watch(ws, "feed")
        async for _ in ws:
            await think(STUCK_S)

    async with pair() as (client, server), Watchdog(**QUICK, on_report=reports) as watchdog:
        task = asyncio.create_task(consume(client), name="consumer of feed")
        await server.send_batch(["xyz"] * 2)
        await until(lambda: len(reports) == 1)
        assert client.stats.queued_messages == 1  # It is stuck still.
        (stuck,) = reports
        await until(lambda: len(reports) == 2)
        await asyncio.sleep(0.3)
        assert len(reports) == 2  # Nothing waits behind the second message.
        task.cancel()
    assert reports.phases == [("consumer", "stuck"), ("consumer", "over")]
    assert (stuck.file, stuck.function) == (__file__, "think")
    assert stuck.line == line_of(think, "await asyncio.sleep")
    assert "await think(STUCK_S)" in stuck.stack
    assert stuck.task == "consumer of feed"
    assert "think() awaits sleep()" in stuck.cause
    (queue,) = stuck.queues
    assert (queue.name, queue.messages, queue.bytes, queue.paused) == ("feed", 1, 3, False)
    assert 0.2 <= queue.oldest_s < STUCK_S
    assert queue.peer_gives_up_s is None  # Pings are answered.
    assert 0.2 <= stuck.stuck_s < STUCK_S
    assert STUCK_S - 0.1 <= reports[1].stuck_s < STUCK_S + 0.3
    assert reports[1].queues[0].messages == 0
    logged = [record.message for record in caplog.records if record.name == "fastws.watchdog"]
    assert len(logged) == 2
    assert {record.levelno for record in caplog.records if record.name == "fastws.watchdog"} == {logging.WARNING}
    assert f"{__file__}:{stuck.line}" in logged[0]
    assert "feed: 1 messages (3 bytes) wait, the oldest for 0." in logged[0]
    assert "cause: " in logged[0]
    assert "consumer was stuck for 0." in logged[1]


@on_asyncio
async def test_consumer_that_is_only_slow():
    reports = Reports()

    async def consume(ws):
        async for _ in ws:
            await asyncio.sleep(0.05)

    async with pair() as (client, server), Watchdog(**QUICK, on_report=reports) as watchdog:
        watchdog.watch(client)
        task = asyncio.create_task(consume(client))
        await server.send_batch(["x"] * 8)
        await until(lambda: not client.stats.queued_messages)
        task.cancel()
    assert not reports


@on_asyncio
async def test_blocked_loop_is_not_the_consumers_time():
    """A consumer that blocks the loop comes back at once: one report, of the loop, with all queues."""
    reports = Reports()

    async def consume(ws):
        watchdog.watch(ws, "feed", peer_timeout=5.0)
        async for _ in ws:
            block()

    async with pair() as (client, server), Watchdog(**QUICK, on_report=reports) as watchdog:
        await server.send_batch(["x"] * 3)
        await until(lambda: client.stats.queued_messages == 3)
        task = asyncio.create_task(consume(client))
        await until(lambda: len(reports) >= 2)
        await until(lambda: not client.stats.queued_messages)
        task.cancel()
    assert {report.what for report in reports} == {"loop"}
    (queue,) = reports[0].queues
    assert (queue.name, queue.messages) == ("feed", 2)
    assert 4.4 < queue.peer_gives_up_s <= 4.8


@on_asyncio
async def test_reading_is_paused_while_the_consumer_is_stuck():
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports) as watchdog:
        fake = Fake(queued_messages=7, queued_bytes=70, delivered=3, paused=True, oldest_s=2.0)
        watchdog.watch(fake)
        await until(lambda: reports)
        (stuck,) = reports
        (queue,) = stuck.queues
        assert queue.name == "192.0.2.1:80"
        assert queue.paused
        assert 19.5 < queue.peer_gives_up_s < 20.0
        assert "the peer may give up in 19." in str(stuck)
        fake.stats = Stats(queued_messages=6, delivered=4)
        await until(lambda: len(reports) == 2)
        assert reports[1].phase == "over"
        # It is stuck again: a new episode.
        await until(lambda: len(reports) == 3)
        assert reports[2].phase == "stuck"


@on_asyncio
async def test_nobody_receives():
    reports = Reports()

    async def consume():
        await client.recv()

    async with pair() as (client, server), Watchdog(**QUICK, on_report=reports) as watchdog:
        async with asyncio.TaskGroup() as group:
            group.create_task(consume())
            await server.send_batch(["x"] * 2)
        await asyncio.create_task(asyncio.to_thread(watchdog.watch, client))
        await until(lambda: reports)
    assert reports[0].file is None
    assert "no task receives" in reports[0].cause


@on_asyncio
async def test_the_task_that_received_last_is_the_consumer():
    """Whoever calls watch()."""
    reports = Reports()

    async def consume():
        async for _ in client:
            await think(10)

    async with pair() as (client, server), Watchdog(**QUICK, on_report=reports) as watchdog:
        watchdog.watch(client)
        task = asyncio.create_task(consume(), name="the one")
        await server.send_batch(["x"] * 2)
        await until(lambda: reports)
        task.cancel()
    assert reports[0].task == "the one"


@pytest.mark.parametrize("end", ["closed", "deleted", "unwatched"])
@on_asyncio
async def test_connection_that_goes(end):
    class Closed:
        name = "CLOSED"

    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports) as watchdog:
        fake = Fake(queued_messages=7)
        watchdog.watch(fake)
        await until(lambda: reports)
        if end == "closed":
            fake.state = Closed
        elif end == "unwatched":
            watchdog.unwatch(fake)
        else:
            del fake
            gc.collect()
        await until(lambda: not watchdog._watched)
        await asyncio.sleep(0.1)
    phases = [report.phase for report in reports if report.what == "consumer"]
    assert phases == (["stuck"] if end == "unwatched" else ["stuck", "over"])


# Robustness


@on_asyncio
async def test_what_can_not_be_watched(caplog):
    """The heartbeat goes on without it."""
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports) as watchdog:
        something = Reports()
        watchdog.watch(something, "something")
        await until(lambda: not watchdog._watched)
        await asyncio.sleep(0.3)
    assert not reports
    assert "something can't be watched" in caplog.text


@on_asyncio
async def test_callback_and_figures_that_fail(caplog):
    class Failing(Fake):
        @property
        def stats(self):
            if threading.current_thread().name == "fastws.watchdog":
                raise RuntimeError("dictionary changed size during iteration")
            return self._stats

        @stats.setter
        def stats(self, stats):
            self._stats = stats

    def fail(report):
        reports(report)
        raise KeyError("mine")

    reports = Reports()
    async with Watchdog(**QUICK, on_report=fail) as watchdog:
        fake = Failing(queued_messages=7)
        watchdog.watch(fake)
        await until(lambda: reports)
        assert reports[0].queues[0].messages == 7
        block()
        await until(lambda: ("loop", "over") in reports.phases)
    assert "on_report failed" in caplog.text


@on_asyncio
async def test_report_while_logging_is_stuck():
    """The loop is blocked in a handler of logging, which holds the lock of logging."""

    class Slow(logging.Handler):
        def emit(self, record):
            if threading.current_thread() is threading.main_thread():
                time.sleep(STUCK_S)

    logger = logging.getLogger("test.slow")
    logger.propagate = False
    logger.addHandler(Slow())
    reports = Reports()
    async with Watchdog(**QUICK, on_report=reports, logger=logger):
        await asyncio.sleep(0.1)
        before = time.monotonic()
        logger.warning("something")
        await until(lambda: len(reports) == 2)
    assert reports.at[0] < before + STUCK_S
    assert reports[0].function == "test_report_while_logging_is_stuck.<locals>.Slow.emit"


@on_asyncio
async def test_nothing_is_left():
    async with Watchdog(**QUICK) as watchdog:
        assert [t.name for t in threading.enumerate()].count("fastws.watchdog") == 1
        with pytest.raises(RuntimeError, match="twice"):
            watchdog.__enter__()
        await asyncio.sleep(0.05)
    await asyncio.sleep(0)
    assert "fastws.watchdog" not in [t.name for t in threading.enumerate()]
    assert watchdog._handle.cancelled()


@on_asyncio
async def test_watched_connections_are_referenced_weakly():
    async with pair() as (client, _), Watchdog(**QUICK) as watchdog:
        watchdog.watch(client)
        await asyncio.sleep(0.1)
    ref = weakref.ref(client)
    del client, _
    with contextlib.suppress(TimeoutError):
        await until(lambda: gc.collect() and ref() is None, 1)
    assert ref() is None


def test_interpreter_that_ends_meanwhile():
    script = (
        "import asyncio, fastws, time\n"
        "async def main():\n"
        "    fastws.Watchdog(blocked_after=0.02, interval=0.001).__enter__()\n"
        "    await asyncio.sleep(0.05)\n"
        "    time.sleep(0.03)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    assert all(line.startswith("event loop") for line in lines), done.stderr


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match="must be positive"):
        Watchdog(interval=0)
    with pytest.raises(RuntimeError, match="no running event loop"):
        Watchdog().__enter__()
    assert fastws.Watchdog is Watchdog
