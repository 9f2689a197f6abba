"""Objects that threads share: right results or a clear error, with a GIL and without one."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastws.deflate import Deflate

from .streams import TEXT, UNLIMITED, frame, xor

AT_WORK = "at work in another thread"
MESSAGES = 4000


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """With a GIL, threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Begin all in threads of their own at the same time; what they return, or what the first raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = works[index]()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def patient(call: Callable[..., Any], *args: Any) -> Any:
    """Call it until no other thread is at work."""
    while True:
        try:
            return call(*args)
        except RuntimeError as exc:
            if AT_WORK not in str(exc):
                raise
            time.sleep(0)


def texts(count: int, size: int = 0) -> list[str]:
    return [f"{number:06d}" + "x" * size for number in range(count)]


def wire(messages: list[str]) -> bytes:
    return b"".join(frame(TEXT, message.encode()) for message in messages)


def check_shares(shares: list[list[str]], messages: list[str]) -> None:
    """Each message came to one thread, and to each in order."""
    for share in shares:
        assert share == sorted(share)
    assert sorted(itertools.chain(*shares)) == messages


# One decoder


@pytest.mark.parametrize("chunk", [100, 5000, 100_000], ids=["small", "medium", "without_gil"])
@pytest.mark.parametrize("how", ["pop", "take", "fragments"])
def test_one_thread_feeds_and_others_take(compiled: Any, chunk: int, how: str) -> None:
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    messages = texts(MESSAGES, 200 if chunk > 50_000 else 0)
    data = wire(messages)
    fed = threading.Event()

    def feed() -> None:
        for start in range(0, len(data), chunk):
            patient(decoder.feed, data[start : start + chunk])
        fed.set()

    def one() -> list[str]:
        if how == "take":
            return list(patient(decoder.take, 7))
        if how == "fragments":
            fragment = patient(decoder.pop_fragment)
            return [] if fragment is None else [fragment[2].decode()]
        message = patient(decoder.pop)
        return [] if message is None else [message]

    def take() -> list[str]:
        share: list[str] = []
        while True:
            over = fed.is_set()
            some = one()
            share += some
            if over and not some:
                return share

    _, *shares = together(feed, take, take)
    check_shares(shares, messages)


def test_figures_of_one_moment(compiled: Any) -> None:
    """Whoever looks from elsewhere sees accounts that add up, and no memory that is gone."""
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    messages = texts(MESSAGES, 100)
    data = wire(messages)
    fed = threading.Event()

    def work() -> list[str]:
        share = []
        for start in range(0, len(data), 50_000):
            decoder.feed(data[start : start + 50_000])
            while len(batch := decoder.take(100)):
                share += batch
        fed.set()
        return share

    def look() -> int:
        looks = 0
        while not (looks and fed.is_set()):
            figures = patient(decoder.figures)
            assert figures.messages_received == figures.delivered + figures.queued_messages
            assert patient(lambda: decoder.oldest_ns) >= 0
            assert decoder.queued_bytes >= 0
            assert decoder.resumable is False
            patient(decoder.lost_by_key)
            looks += 1
        return looks

    share, *looks = together(work, look, look)
    assert share == messages
    assert all(looks)


def test_lent_memory(compiled: Any) -> None:
    """Views of it are let go of in other threads, and decoding goes on elsewhere meanwhile."""
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    messages = texts(MESSAGES)
    data = wire(messages)
    views: list[memoryview] = []
    done = threading.Event()

    def write() -> None:
        at = 0
        while at < len(data):
            view = patient(decoder.get_buffer)
            some = data[at : at + min(len(view), 300)]
            view[: len(some)] = some
            views.append(view)
            patient(decoder.buffer_updated, len(some))
            at += len(some)
        done.set()

    def let_go() -> None:
        while views or not done.is_set():
            try:
                views.pop().release()
            except IndexError:
                time.sleep(0)

    def take() -> list[str]:
        share: list[str] = []
        while len(share) < len(messages):
            share += patient(decoder.take)
        return share

    assert together(write, let_go, take)[2] == messages


def test_a_key_function_calls_back(compiled: Any) -> None:
    """Its decoder is at work, in this thread or another."""
    errors = []

    def key(message: Any) -> str:
        for call in (decoder.pop, lambda: decoder.feed(b"\x81\x01a")):
            with pytest.raises(RuntimeError, match=AT_WORK) as caught:
                call()
            errors.append(caught.value)
        return "key"

    from fastws.overflow import Conflate

    decoder = compiled.FrameDecoder("client", overflow=Conflate(key))
    decoder.feed(wire(["one"]))
    assert len(errors) == 2
    assert decoder.pop() == "one"


# Turns and iterators


def test_one_iterator_for_threads(compiled: Any) -> None:
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    turn = compiled.Turn(decoder)
    messages = texts(MESSAGES)
    decoder.feed(wire(messages))

    def wait() -> str:
        # None: another thread is receiving, or nothing is left.
        while (message := turn.take()) is None:
            if not decoder.queued_messages:
                raise StopIteration
        return message

    iterator = compiled.BlockingIterator(turn, wait)
    shares = together(*[lambda: list(iterator)] * 3)
    check_shares(shares, messages)
    assert turn.wait[0] >= 0
    assert turn.processing[0] >= 0


def test_claimed_by_one(compiled: Any) -> None:
    turn = compiled.Turn(compiled.FrameDecoder("client"))
    claims = together(*[lambda: sum(turn.claim() for _ in range(100))] * 4)
    assert sum(claims) == 1
    assert turn.busy


def test_async_iterators_are_not_mixed_up(compiled: Any) -> None:
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    messages = texts(MESSAGES)
    decoder.feed(wire(messages))

    class Over(Exception):
        pass

    def wait() -> Any:
        raise Over

    iterator = compiled.MessageIterator(decoder, compiled.Turn(decoder, max_messages=10**6, max_ns=10**12), wait, wait)

    def take() -> list[str]:
        share: list[str] = []
        while True:
            try:
                iterator.__anext__().send(None)
            except StopIteration as stop:
                share.append(stop.value)
            except Over:
                return share

    check_shares(together(take, take, take), messages)


def test_a_batch_and_its_iterator(compiled: Any) -> None:
    decoder = compiled.FrameDecoder("client", **UNLIMITED)
    messages = texts(MESSAGES)
    decoder.feed(wire(messages))
    batch = decoder.take()
    shared = iter(batch)
    views: list[memoryview] = []

    def cut() -> None:
        for start in range(0, MESSAGES, 50):
            part = batch[start : start + 50]
            assert list(part) == messages[start : start + 50]
            views.extend(part.view(i) for i in range(0, 50, 10))
            assert part == batch[start : start + 50]

    def let_go() -> None:
        for _ in range(2 * MESSAGES // 10):
            while not views:
                time.sleep(0)
            view = views.pop()
            assert len(view) == 6
            view.release()

    *shares, _, _, _ = together(*[lambda: list(shared)] * 3, cut, cut, let_go)
    check_shares(shares, messages)


# One encoder


def unmasked(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and payload of short masked frames, one behind the other."""
    while data:
        length = data[1] & 0x7F
        assert data[:1] == b"\x81"
        assert data[1] & 0x80
        assert length < 126
        yield data[2:6], xor(data[6 : 6 + length], data[2:6])
        data = data[6 + length :]


def test_frames_and_masking_keys(compiled: Any) -> None:
    """No frame is mixed with another, and no key is used for two."""
    encoder = compiled.FrameEncoder("client")
    other = compiled.FrameEncoder("client")

    def encode(letter: str, encoder: Any) -> bytes:
        frames = [encoder.encode(TEXT, letter * (number % 100)) for number in range(1500)]
        return b"".join(frames) + encoder.encode_batch([letter * (number % 100) for number in range(1500)])

    used = []
    encoders = {"a": encoder, "b": encoder, "c": other}
    results = together(*(lambda pair=pair: encode(*pair) for pair in encoders.items()))
    for letter, data in zip(encoders, results, strict=True):
        frames = list(unmasked(data))
        assert [payload for _, payload in frames] == [letter.encode() * (number % 100) for number in range(1500)] * 2
        used += [key for key, _ in frames]
    # Of 9000 random keys of 32 bits, one or the other comes twice once in a hundred times, five never.
    assert len(used) - len(set(used)) < 5


@pytest.mark.parametrize("size", [100, 20_000])
def test_compressed_frames(compiled: Any, size: int) -> None:
    deflate = Deflate(True, True, 15, 15)
    encoder = compiled.FrameEncoder("client", deflate=deflate)

    def encode(letter: str) -> bytes:
        message = letter * size
        frames = [encoder.encode(TEXT, message) for _ in range(60)]
        return b"".join(frames) + encoder.encode_batch([message] * 60)

    for letter, data in zip("abc", together(*(lambda letter=letter: encode(letter) for letter in "abc")), strict=True):
        decoder = compiled.FrameDecoder("server", deflate=deflate, **UNLIMITED)
        decoder.feed(data)
        assert decoder.violation is None
        assert list(decoder.take()) == [letter * size] * 120


# Awaitables


class Slow:
    """What an awaitable waits for: stays in its first step until it is told to go on."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()

    def __await__(self) -> Iterator[None]:
        self.inside.set()
        assert self.go.wait(30)
        yield


@pytest.mark.parametrize("kind", ["send", "recv", "iterator"])
def test_awaitables_run_in_one_thread(impl: Any, kind: str) -> None:
    """As with a coroutine, whoever else steps, throws at or closes one that runs gets a ValueError."""
    slow = Slow()

    async def wait(*args: Any) -> None:
        await slow

    class Connection:
        _sender = None
        _turn = None
        _send = _recv = wait

    decoder = impl.FrameDecoder("client")
    if kind == "send":
        awaitable = impl.send(Connection(), "message")
    elif kind == "recv":
        if impl.name == "reference":
            pytest.skip("it is a method of the connection's there")
        awaitable = impl.recv(Connection())
    else:
        if impl.name == "reference":
            pytest.skip("it gives the coroutine out itself")
        decoder.feed(b"\x81\x01a")
        awaitable = impl.MessageIterator(decoder, impl.Turn(decoder), wait, None).__anext__()
        decoder.pop()
    first = threading.Thread(target=awaitable.send, args=(None,))
    first.start()
    assert slow.inside.wait(30)
    calls: list[Callable[[], Any]] = [
        lambda: awaitable.send(None),
        lambda: awaitable.throw(KeyError("thrown")),
        awaitable.close,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="already executing"):
            call()
    if kind != "iterator":
        assert awaitable.cr_running
    slow.go.set()
    first.join()
    with pytest.raises(StopIteration):
        awaitable.send(None)


def test_awaitables_are_thrown_at_by_threads(compiled: Any) -> None:
    """Whatever comes first: one of the threads ends it, the others get an error."""

    async def wait(*args: Any) -> str:
        while True:
            await pause

    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    class Connection:
        _sender = None
        _send = wait

    pause = Pause()

    def attempt(call: Callable[[], Any]) -> int:
        try:
            call()
        except KeyError:
            return 1
        except (ValueError, RuntimeError) as exc:
            if "already executing" not in str(exc) and "cannot reuse" not in str(exc):
                raise
        return 0

    def throw(sending: Any) -> int:
        return attempt(lambda: sending.throw(KeyError("thrown")))

    def step(sending: Any) -> int:
        return attempt(lambda: sending.send(None))

    for _ in range(200):
        sending = compiled.send(Connection(), "message")
        sending.send(None)
        ended = together(*(functools.partial(work, sending) for work in (throw, step, throw)))
        assert sum(ended) <= 1
        sending.close()
        with pytest.raises(RuntimeError):
            sending.send(None)


# Without a GIL


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python can't do without a GIL")
def test_modules_do_not_ask_for_the_gil(compiled: Any) -> None:
    """Importing one that isn't declared would turn the GIL on for the whole process."""
    program = """
        import importlib, pathlib, sys, types
        # Our modules only: what the package imports besides may be others' that ask for it.
        package = types.ModuleType("fastws")
        package.__path__ = [sys.argv[1]]
        sys.modules["fastws"] = package
        names = sorted(path.name.partition(".")[0] for path in pathlib.Path(sys.argv[1]).glob("_*.so"))
        assert "_decoder" in names and "_pump" in names
        for name in names:
            importlib.import_module(f"fastws.{name}")
            assert not sys._is_gil_enabled(), name
    """
    import inspect

    import fastws

    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    folder = os.path.dirname(inspect.getfile(fastws))
    subprocess.run([sys.executable, "-c", inspect.cleandoc(program), folder], check=True, timeout=60, env=environment)
