"""``fastws.workers``: bounded workers on the loop, in threads and in processes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from connection.net import against_peer, numbered, on_asyncio, over_loops, pair, strings, until

import fastws
from fastws.backlog import Backlog, key_function
from fastws.overflow import Between


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastws.workers")]


@contextlib.contextmanager
def nobody_left():
    yield
    assert not threads_left()
    assert not multiprocessing.active_children()


# Handlers for processes; each appends a line to the file that its message names.


def write_line(message):
    with open(json.loads(message)["file"], "a") as file:
        file.write(f"{os.getpid()} {message}\n")


def write_with_another(message):
    """The first message of a process waits until another process has one, too."""
    path = Path(json.loads(message)["file"])
    (path.parent / f"process{os.getpid()}").touch()
    end = time.monotonic() + 10
    while len(list(path.parent.glob("process*"))) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    write_line(message)


def refuse(message):
    write_line(message)
    if json.loads(message)["n"] == 3:
        raise KeyError("three")


class Stubborn(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def refuse_unpicklably(message):
    raise Stubborn("not again", 2)


def dawdle(message):
    write_line(message)
    time.sleep(0.2)


def die(message):
    os._exit(3)


# On the loop


@over_loops
async def test_all_messages_are_handled_by_as_many_as_wanted():
    at_once, most, handled = 0, 0, []

    async def handler(message):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        handled.append(message)

    async with pair() as (client, server):
        async with fastws.workers(client, handler, concurrency=3) as pool:
            await server.send_batch(strings(0, 100))
            await server.close()
    assert sorted(handled, key=int) == strings(0, 100)
    assert most == 3
    assert (pool.handled, pool.pending) == (100, 0)


@on_asyncio
async def test_one_worker_keeps_the_order():
    handled = []

    async def handler(message):
        await asyncio.sleep(random.random() / 1000)
        handled.append(message)

    async with pair() as (client, server):
        await server.send_batch(strings(0, 100))
        await server.close()
        async with fastws.workers(client, handler, concurrency=1) as pool:
            await pool.join()
            assert pool.handled == 100
    assert handled == strings(0, 100)


@on_asyncio
async def test_handlers_that_never_suspend_leave_the_loop_its_turn():
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def handler(message):
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass

    async with pair() as (client, server):
        await server.send_batch(strings(0, 50))
        await server.close()
        counting = asyncio.create_task(count())
        async with fastws.workers(client, handler, max_pending=1000):
            pass
        counting.cancel()
    assert turns >= 5


@pytest.mark.parametrize("executor", ["loop", "thread"])
@on_asyncio
async def test_order_per_key(executor):
    """Random keys and times: each key in its order and never twice at a time, several keys at once."""
    lock = threading.Lock()
    at_work, most, handled, doubled = set(), 0, collections.defaultdict(list), []

    def begin(message):
        nonlocal most
        key = message[0]
        with lock:
            if key in at_work:
                doubled.append(message)
            at_work.add(key)
            most = max(most, len(at_work))

    def end(message):
        with lock:
            at_work.discard(message[0])
            handled[message[0]].append(message)

    async def on_loop(message):
        begin(message)
        await asyncio.sleep(random.random() / 1000)
        end(message)

    def in_thread(message):
        begin(message)
        time.sleep(random.random() / 2000)
        end(message)

    messages = [f"{random.choice('abcdef')}{number}" for number in range(400)]
    handler = on_loop if executor == "loop" else in_thread
    with nobody_left():
        async with pair() as (client, server):
            async with fastws.workers(client, handler, key=lambda message: message[0], executor=executor):
                for start in range(0, 400, 80):
                    await server.send_batch(messages[start : start + 80])
                    await asyncio.sleep(0.002)
                await server.close()
    assert not doubled
    assert dict(handled) == {key: [m for m in messages if m[0] == key] for key in "abcdef"}
    assert 2 <= most <= 4


@pytest.mark.parametrize("executor", ["loop", "thread"])
@on_asyncio
async def test_no_more_are_taken_than_may_be_pending(executor):
    gate = threading.Event()

    def in_thread(message):
        gate.wait(5)

    async def on_loop(message):
        await until(gate.is_set)

    handler = on_loop if executor == "loop" else in_thread
    async with against_peer() as (ws, peer):
        async with fastws.workers(ws, handler, concurrency=2, executor=executor, max_pending=6) as pool:
            peer.write(numbered(peer, 0, 20))
            await peer.through()
            await until(lambda: pool.pending == 6)
            await asyncio.sleep(0.02)
            assert (pool.pending, pool.handled, ws._decoder.queued_messages) == (6, 0, 14)
            gate.set()
            await until(lambda: pool.handled == 20)
            assert pool.pending == 0
            await peer.close()


@on_asyncio
async def test_first_exception_ends_the_pool():
    began = []

    async def handler(message):
        began.append(message)
        if message == "2":
            raise ValueError("two") from KeyError("cause")
        await asyncio.sleep(10)

    async with pair() as (client, server):
        await server.send_batch(strings(0, 10))
        with pytest.raises(ValueError, match="two") as raised:
            async with fastws.workers(client, handler) as pool:
                await asyncio.sleep(10)
        assert "while handling the message '2'" in raised.value.__notes__
        assert isinstance(raised.value.__cause__, KeyError)
        assert raised.value.__context__ is None
        assert began[:3] == strings(0, 3)
        assert len(began) <= 4
        assert pool.handled == 0
        assert asyncio.current_task().cancelling() == 0
        # The connection is the user's again.
        await server.send("after")
        assert client.state is fastws.State.OPEN


@on_asyncio
async def test_exception_of_the_block():
    async def handler(message):
        await asyncio.sleep(10)

    async def run(client):
        async with fastws.workers(client, handler) as pool:
            await until(lambda: pool.pending)
            raise KeyError("mine")

    async with pair() as (client, server):
        await server.send("0")
        with pytest.raises(KeyError, match="mine"):
            await run(client)


@on_asyncio
async def test_handler_that_is_cancelled_from_within():
    async def handler(message):
        raise asyncio.CancelledError

    async with pair() as (client, server):
        await server.send("0")
        with pytest.raises(RuntimeError, match="cancelled from within") as raised:
            async with fastws.workers(client, handler):
                await asyncio.sleep(10)
        assert "while handling the message '0'" in raised.value.__notes__


@on_asyncio
async def test_key_that_raises():
    async def handler(message): ...

    async with pair() as (client, server):
        await server.send("x")
        with pytest.raises(ZeroDivisionError):
            async with fastws.workers(client, handler, key=lambda message: 1 // 0):
                await asyncio.sleep(10)


@pytest.mark.parametrize("executor", ["loop", "thread"])
@on_asyncio
async def test_lost_connection_is_raised_when_all_is_handled(executor):
    handled = []

    async def on_loop(message):
        await asyncio.sleep(0.001)
        handled.append(message)

    handler = on_loop if executor == "loop" else handled.append
    with nobody_left():
        async with against_peer() as (ws, peer):
            peer.write(numbered(peer, 0, 30))
            await peer.through()
            with pytest.raises(fastws.ConnectionClosedError):
                async with fastws.workers(ws, handler, executor=executor):
                    peer.drop()
    assert sorted(handled, key=int) == strings(0, 30)


@on_asyncio
async def test_cancelling():
    ended = []

    async def handler(message):
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(message)

    async def run(client):
        async with fastws.workers(client, handler, concurrency=2, max_pending=2):
            pass

    async with pair() as (client, server):
        await server.send_batch(strings(0, 10))
        task = asyncio.create_task(run(client))
        await until(lambda: client._decoder.queued_messages == 8)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == ["0", "1"]
        assert await client.recv() == "2"


# Threads


@over_loops
async def test_threads_leave_the_loop_free():
    names = set()
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("as where it was started")
    seen = set()

    go = threading.Event()

    def handler(message):
        names.add(threading.current_thread().name)
        seen.add(variable.get())
        assert go.wait(10)

    with nobody_left():
        async with pair() as (client, server):
            async with fastws.workers(client, handler, executor="thread", concurrency=4) as pool:
                await server.send_batch(strings(0, 8))
                await server.close()
                # All four are at work, and so is the loop.
                await until(lambda: len(names) == 4)
                assert pool.handled == 0
                go.set()
                await until(lambda: pool.handled == 8)
    assert len(names) == 4
    assert seen == {"as where it was started"}


@on_asyncio
async def test_threads_get_many_messages_at_once(monkeypatch):
    from fastws.crews import Threads

    sizes = []
    submit = Threads.submit

    def counted(self, messages):
        sizes.append((type(messages), len(messages)))
        return submit(self, messages)

    monkeypatch.setattr(Threads, "submit", counted)
    async with pair() as (client, server):
        await server.send_batch(strings(0, 2000))
        await server.close()
        async with fastws.workers(client, int, executor="thread"):
            pass
    assert sum(size for _, size in sizes) == 2000
    assert len(sizes) < 400
    # Slices of batches, no list of Python objects.
    assert {kind for kind, size in sizes if size > 1} == {fastws.Batch}


@on_asyncio
async def test_exception_in_a_thread():
    handled = []

    def handler(message):
        if message == "7":
            raise ValueError("seven")
        handled.append(message)

    with nobody_left():
        async with pair() as (client, server):
            await server.send_batch(strings(0, 100))
            with pytest.raises(ValueError, match="seven") as raised:
                async with fastws.workers(client, handler, executor="thread", concurrency=1) as pool:
                    await asyncio.sleep(10)
    assert raised.value.__notes__ == ["while handling the message '7'"]
    assert handled == strings(0, 7)
    assert pool.handled == 7


@on_asyncio
async def test_cancelling_waits_for_threads():
    began, ended = threading.Event(), []

    def handler(message):
        began.set()
        time.sleep(0.1)
        ended.append(message)

    async def run(client):
        async with fastws.workers(client, handler, executor="thread", concurrency=1):
            pass

    with nobody_left():
        async with pair() as (client, server):
            await server.send_batch(strings(0, 10))
            task = asyncio.create_task(run(client))
            await until(began.is_set)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()  # Once more, while it waits.
            with pytest.raises(asyncio.CancelledError):
                await task
        assert ended == ["0"]


# Processes


def told(path):
    """[(process, message), ...] that `write_line` wrote."""
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
    return [(int(process), json.loads(message)) for process, message in lines]


def messages_for(path, count, keys=1):
    return [json.dumps({"file": str(path), "n": number, "s": number % keys}) for number in range(count)]


@over_loops
async def test_processes_keep_the_order_per_key(tmp_path):
    path = tmp_path / "lines"
    with nobody_left():
        async with pair() as (client, server):
            await server.send_batch(messages_for(path, 300, keys=7))
            await server.close()
            async with fastws.workers(client, write_with_another, key="/s", executor="process", concurrency=2) as pool:
                pass
    lines = told(path)
    assert (pool.handled, pool.pending, len(lines)) == (300, 0, 300)
    processes = {process for process, _ in lines}
    assert os.getpid() not in processes
    assert len(processes) == 2
    for key in range(7):
        assert [message["n"] for _, message in lines if message["s"] == key] == list(range(key, 300, 7))


@on_asyncio
async def test_exception_in_a_process(tmp_path):
    path = tmp_path / "lines"
    with nobody_left():
        async with pair() as (client, server):
            await server.send_batch(messages_for(path, 100))
            with pytest.raises(KeyError, match="three") as raised:
                async with fastws.workers(client, refuse, executor="process", concurrency=1) as pool:
                    await asyncio.sleep(10)
    notes = "\n".join(raised.value.__notes__)
    assert '"n": 3' in notes
    assert "in refuse" in notes
    assert [message["n"] for _, message in told(path)] == [0, 1, 2, 3]
    assert pool.handled == 3


@pytest.mark.parametrize(
    ("handler", "expected", "said"),
    [
        (refuse_unpicklably, RuntimeError, "Stubborn: not again"),
        (die, BrokenProcessPool, "terminated abruptly"),
    ],
    ids=["exception-that-does-not-pickle", "process-that-dies"],
)
@on_asyncio
async def test_what_ends_workers(handler, expected, said):
    with nobody_left():
        async with pair() as (client, server):
            await server.send("x")
            with pytest.raises(expected, match=said):
                async with fastws.workers(client, handler, executor="process", concurrency=1):
                    await asyncio.sleep(10)


@on_asyncio
async def test_cancelling_waits_for_processes(tmp_path):
    path = tmp_path / "lines"

    async def run(client):
        async with fastws.workers(client, dawdle, executor="process", concurrency=1):
            pass

    with nobody_left():
        async with pair() as (client, server):
            await server.send_batch(messages_for(path, 20))
            task = asyncio.create_task(run(client))
            await until(path.exists)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert len(told(path)) == 1


def test_handler_that_processes_can_not_load(tmp_path):
    """A handler of a program that isn't guarded is named, not lost in a broken pool."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, fastws\n"
        "async def main():\n"
        "    def made(): pass\n"
        "    made.__module__, made.__qualname__ = '__main__', 'handler'\n"
        "    async with fastws.workers(None, handler, executor='process', concurrency=1): pass\n"
        "if __name__ == '__main__':\n"
        "    def handler(message): pass\n"
        "    asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert "AttributeError: Can't get attribute 'handler'" in done.stderr


# Arguments


def test_arguments_that_make_no_sense():
    async def coroutine(message): ...

    with pytest.raises(ValueError, match="executor is 'fork'"):
        fastws.workers(None, coroutine, executor="fork")
    with pytest.raises(ValueError, match="concurrency is 0"):
        fastws.workers(None, coroutine, concurrency=0)
    with pytest.raises(ValueError, match="max_pending is 0"):
        fastws.workers(None, coroutine, max_pending=0)
    with pytest.raises(ValueError, match="RFC 6901"):
        fastws.workers(None, coroutine, key="stream")
    with pytest.raises(TypeError, match='needs executor="loop"'):
        fastws.workers(None, coroutine, executor="thread")
    with pytest.raises(TypeError, match="imported by name"):
        fastws.workers(None, lambda message: None, executor="process")


@on_asyncio
async def test_pool_is_entered_once():
    async def handler(message): ...

    async with pair() as (client, server):
        pool = fastws.workers(client, handler)
        await server.close()
        async with pool:
            pass
        with pytest.raises(RuntimeError, match="twice"):
            async with pool:
                pass


@pytest.mark.parametrize(
    ("key", "message", "expected"),
    [
        ("/s", '{"s": "BTC"}', "BTC"),
        ("/s", b'{"s": "BTC"}', "BTC"),
        ("/data/s", '{"data": {"s": 1.50}}', "1.50"),
        ("/0/a~1b~0c", '[{"a/b~c": true}]', "true"),
        ("/01", '["x", "y"]', None),
        ("/9", "[1]", None),
        ("/s", '{"s": null}', None),
        ("/s", '{"s": {}}', None),
        ("/s", '{"s": ""}', ""),
        ("/s", "not JSON", None),
        ("/s", b"\xff", None),
        ("/s", '"text"', None),
        (("/a", "/b"), '{"a": "x", "b": 2}', "x|2"),
        (("/a", "/b"), '{"a": "x"}', None),
        (Between(b'"s":"', b'"'), '{"s":"BTC"}', b"BTC"),
        (Between(b'"s":"', b'"'), '{"s":"BTC', None),
        (Between(b'"s":"', b'"'), "{}", None),
        (len, "abc", 3),
    ],
)
def test_keys(key, message, expected):
    assert key_function(key)(message) == expected


# The backlog


@pytest.mark.parametrize("seed", range(20))
@on_asyncio
async def test_backlog_by_chance(seed):
    """Workers that take and finish at random: nothing is lost, doubled or out of its key's order, bounds hold."""
    chance = random.Random(seed)
    workers, max_pending = chance.randint(1, 4), chance.randint(1, 40)
    keyed = chance.random() < 0.8
    backlog = Backlog((lambda m: m[0]) if keyed else None, max_pending, workers, chance.choice([1, max_pending]))
    messages = [f"{chance.choice('abcd')}{number}" for number in range(300)]
    handled, in_work = [], collections.Counter()

    async def work():
        while (job := await backlog.get()) is not None:
            assert job.messages
            in_work.update(job.keys)
            assert not job.keys or max(in_work.values()) == 1
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
            handled.extend(job.messages)
            in_work.subtract(job.keys)
            backlog.done(job)

    async def receive():
        left = messages[:]
        while left:
            size = chance.randint(1, await backlog.room())
            backlog.add(left[:size])
            del left[:size]
            assert backlog.pending <= max_pending
            await asyncio.sleep(0)
        backlog.close()

    async with asyncio.timeout(5):
        await asyncio.gather(receive(), *(work() for _ in range(workers)))
    assert sorted(handled) == sorted(messages)
    assert backlog.pending == 0
    if keyed:
        for key in "abcd":
            assert [m for m in handled if m[0] == key] == [m for m in messages if m[0] == key]
    elif workers == 1:
        assert handled == messages
