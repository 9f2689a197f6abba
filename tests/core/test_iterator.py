"""``async for``: messages without suspending, but not without end; and none lost by who stops waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

import pytest

from .streams import BINARY, TEXT, frame


def numbered(count, start=0):
    return b"".join(frame(TEXT, b"%d" % i) for i in range(start, start + count))


class Setup:
    """An iterator over a decoder, with a ``wait`` that suspends until it is given something."""

    def __init__(self, impl, *, max_messages=1024, max_ns=60 * 10**9, **options):
        self.decoder = impl.FrameDecoder("client", **options)
        self.turn = impl.Turn(self.decoder, max_messages=max_messages, max_ns=max_ns)
        self.waits = 0
        self.resumes = 0
        self.ended = False
        self.suspending = True
        self.iterator = impl.MessageIterator(self.decoder, self.turn, self.wait, self.resume)

    async def wait(self):
        self.waits += 1
        while True:
            message = self.decoder.pop()
            if message is not None:
                return message
            if self.ended:
                raise StopAsyncIteration
            await asyncio.sleep(0)

    def resume(self):
        self.resumes += 1
        self.decoder.resume()


def step(awaitable):
    """("suspended", what it yielded) or ("message", the message)."""
    try:
        return "suspended", awaitable.send(None)
    except StopIteration as stop:
        return "message", stop.value


def collect(setup, count):
    """Messages and the suspensions between them, as None."""
    events = []
    for number in range(count):
        awaitable = setup.iterator.__anext__()
        for _ in range(10):
            kind, value = step(awaitable)
            events.append(value)
            if kind == "message":
                break
        else:
            pytest.fail(f"nothing but suspensions after {number} messages")
    return events


def test_is_its_own_iterator(impl):
    setup = Setup(impl)
    assert aiter(setup.iterator) is setup.iterator


def test_queued_messages_come_without_suspending(impl):
    setup = Setup(impl)
    setup.decoder.feed(numbered(1000) + frame(BINARY, b"b"))
    assert collect(setup, 1001) == [*map(str, range(1000)), b"b"]
    assert setup.waits == 0


def test_async_for(impl):
    async def main():
        setup = Setup(impl)
        setup.decoder.feed(numbered(10))

        async def feed():
            for i in range(10, 15):
                await asyncio.sleep(0)
                setup.decoder.feed(numbered(1, i))
            setup.ended = True

        feeding = asyncio.create_task(feed())
        got = [message async for message in setup.iterator]
        await feeding
        return got

    assert asyncio.run(main()) == [str(i) for i in range(15)]


def test_waits_when_nothing_is_queued(impl):
    setup = Setup(impl)
    awaitable = setup.iterator.__anext__()
    assert step(awaitable) == ("suspended", None)
    assert setup.waits == 1
    assert step(awaitable) == ("suspended", None)
    setup.decoder.feed(numbered(2))
    assert step(awaitable) == ("message", "0")
    assert step(setup.iterator.__anext__()) == ("message", "1")
    assert setup.waits == 1


def test_end(impl):
    setup = Setup(impl)
    setup.ended = True
    setup.decoder.feed(numbered(1))

    async def main():
        got = [message async for message in setup.iterator]
        with pytest.raises(StopAsyncIteration):
            await anext(setup.iterator)
        assert await anext(setup.iterator, "default") == "default"
        return got

    assert asyncio.run(main()) == ["0"]


def test_errors_of_wait_come_through(impl):
    setup = Setup(impl)

    async def broken():
        await asyncio.sleep(0)
        raise ConnectionResetError("gone")

    iterator = impl.MessageIterator(setup.decoder, setup.turn, broken, setup.resume)

    async def main():
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="gone"):
                await anext(iterator)

    asyncio.run(main())


def test_is_a_coroutine_for_asyncio(impl):
    """It can be made a task, and be waited for with a timeout."""

    async def main():
        setup = Setup(impl)
        setup.decoder.feed(numbered(3))
        assert isinstance(awaitable := setup.iterator.__anext__(), Coroutine)
        assert await awaitable == "0"
        assert await asyncio.create_task(setup.iterator.__anext__()) == "1"
        assert await asyncio.wait_for(anext(setup.iterator), 10) == "2"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(setup.iterator), 0.001)
        task = asyncio.ensure_future(setup.iterator.__anext__())
        await asyncio.sleep(0)
        setup.decoder.feed(numbered(1, 3))
        assert await task == "3"

    asyncio.run(main())


class TestFairness:
    def test_a_turn_is_so_many_messages(self, impl):
        setup = Setup(impl, max_messages=3)
        for i in range(9):
            setup.decoder.feed(numbered(1, i))
            assert collect(setup, 1) == ([None] if i in (3, 6) else []) + [str(i)]

    def test_or_as_many_as_were_queued_when_it_began(self, impl):
        setup = Setup(impl, max_messages=3)
        setup.decoder.feed(numbered(50))
        events = collect(setup, 50)
        assert [event for event in events if event is not None] == [str(i) for i in range(50)]
        # Three of the first turn; then 47 were queued.
        assert events.index(None) == 3
        assert events.count(None) == 1

    def test_time_ends_a_turn(self, impl):
        setup = Setup(impl, max_ns=1)
        setup.decoder.feed(numbered(1000))
        events = collect(setup, 1000)
        assert [event for event in events if event is not None] == [str(i) for i in range(1000)]
        assert events.count(None) >= 1000 / 64

    def test_a_slow_consumer(self, impl):
        """Its messages take half of a turn each: the loop must come in between often."""
        setup = Setup(impl, max_ns=2_000_000)
        setup.decoder.feed(numbered(40))
        runs = [0]
        for _ in range(40):
            awaitable = setup.iterator.__anext__()
            if step(awaitable)[0] == "suspended":
                runs.append(0)
                assert step(awaitable)[0] == "message"
            runs[-1] += 1
            time.sleep(0.001)
        assert max(runs) <= 6

    def test_timers_run(self, impl):
        """A consumer that never really awaits doesn't starve the loop."""

        async def main():
            setup = Setup(impl, max_ns=5_000_000)
            ran = []
            setup.decoder.feed(numbered(20))
            asyncio.get_running_loop().call_soon(ran.append, "timer")
            count = 0
            async for _ in setup.iterator:
                count += 1
                time.sleep(0.001)  # noqa: ASYNC251  # A consumer that computes.
                if count < 1000 and not ran:
                    setup.decoder.feed(numbered(1))
                if ran:
                    break
            return count

        assert asyncio.run(main()) < 100

    def test_no_message_is_lost_while_the_loop_runs(self, impl):
        for stop in ("throw", "close", "drop"):
            setup = Setup(impl, max_messages=1)
            for i in range(6):
                setup.decoder.feed(numbered(1, i))
            got = []
            for _ in range(40):
                awaitable = setup.iterator.__anext__()
                kind, value = step(awaitable)
                if kind == "message":
                    got.append(value)
                elif len(got) == 6:
                    awaitable.close()
                    break
                elif stop == "throw":
                    with pytest.raises(asyncio.CancelledError):
                        awaitable.throw(asyncio.CancelledError())
                    setup.turn.renew()
                elif stop == "close":
                    awaitable.close()
                    setup.turn.renew()
                else:
                    del awaitable
                    setup.turn.renew()
            assert got == [str(i) for i in range(6)], stop


class TestTurn:
    def test_counts(self, impl):
        turn = impl.Turn(impl.FrameDecoder("client"), max_messages=3, max_ns=60 * 10**9)
        for _ in range(3):
            assert [turn.spend() for _ in range(4)] == [False, False, False, True]
            turn.renew()
        assert turn.spend(3) is False
        assert turn.spend(1) is True
        turn.renew()
        assert turn.spend(2) is False
        assert turn.spend(2) is True

    def test_stays_over_until_it_is_renewed(self, impl):
        turn = impl.Turn(impl.FrameDecoder("client"), max_messages=100, max_ns=60 * 10**9)
        assert turn.spend(101) is True
        assert turn.spend() is True
        assert turn.spend() is True
        turn.renew()
        assert turn.spend() is False

    def test_what_was_queued_when_it_began(self, impl):
        decoder = impl.FrameDecoder("client")
        decoder.feed(numbered(10))
        turn = impl.Turn(decoder, max_messages=3, max_ns=60 * 10**9)
        assert [turn.spend() for _ in range(11)] == [False] * 10 + [True]
        decoder.take(8)
        turn.renew()
        assert [turn.spend() for _ in range(4)] == [False] * 3 + [True]

    def test_time(self, impl):
        turn = impl.Turn(impl.FrameDecoder("client"), max_messages=10**9, max_ns=1)
        assert any(turn.spend() for _ in range(100))
        assert turn.spend()
        turn.renew()
        assert any(turn.spend() for _ in range(100))

    def test_defaults(self, impl):
        turn = impl.Turn(impl.FrameDecoder("client"))
        started = time.monotonic_ns()
        spent = 0
        while not turn.spend():
            spent += 1
        assert spent == 1024 or time.monotonic_ns() - started >= 5_000_000

    def test_busy(self, impl):
        assert impl.Turn(impl.FrameDecoder("client")).busy is False


class TestStopping:
    """Whoever doesn't wait any more loses nothing."""

    def test_before_it_was_started(self, impl):
        setup = Setup(impl)
        setup.decoder.feed(numbered(3))
        setup.iterator.__anext__().close()
        with pytest.raises(asyncio.CancelledError):
            setup.iterator.__anext__().throw(asyncio.CancelledError())
        with pytest.raises(asyncio.CancelledError):
            setup.iterator.__anext__().throw(asyncio.CancelledError)
        assert setup.decoder.queued_messages == 3
        assert collect(setup, 3) == ["0", "1", "2"]

    def test_while_waiting(self, impl):
        setup = Setup(impl)
        for error in (asyncio.CancelledError(), KeyboardInterrupt()):
            awaitable = setup.iterator.__anext__()
            assert step(awaitable)[0] == "suspended"
            with pytest.raises(type(error)):
                awaitable.throw(error)
        awaitable = setup.iterator.__anext__()
        assert step(awaitable)[0] == "suspended"
        awaitable.close()
        setup.decoder.feed(numbered(2))
        assert collect(setup, 2) == ["0", "1"]

    def test_cancelled_task(self, impl):
        async def main():
            setup = Setup(impl)
            task = asyncio.create_task(setup.iterator.__anext__())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            setup.decoder.feed(numbered(1))
            # Cancelled before it ran at all.
            task = asyncio.create_task(setup.iterator.__anext__())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await anext(setup.iterator)

        assert asyncio.run(main()) == "0"

    def test_wait_may_catch_what_is_thrown(self, impl):
        setup = Setup(impl)

        async def patient():
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                return "caught"

        iterator = impl.MessageIterator(setup.decoder, setup.turn, patient, setup.resume)
        awaitable = iterator.__anext__()
        assert step(awaitable)[0] == "suspended"
        with pytest.raises(StopIteration) as stop:
            awaitable.throw(asyncio.CancelledError())
        assert stop.value.value == "caught"


def test_resumes_when_it_has_caught_up(impl):
    setup = Setup(impl, max_queue=(3, 1))
    setup.decoder.feed(numbered(20))
    assert setup.decoder.queued_messages == 4
    assert collect(setup, 2) == ["0", "1"]
    assert setup.resumes == 0
    assert collect(setup, 1) == ["2"]
    assert setup.resumes == 1
    assert setup.decoder.queued_messages == 4
    assert [event for event in collect(setup, 17) if event is not None] == [str(i) for i in range(3, 20)]
    assert not setup.decoder.blocked


def test_another_coroutine_is_receiving(impl):
    """Then nothing is taken from under it: ``wait`` is asked, which refuses."""
    setup = Setup(impl)
    setup.decoder.feed(numbered(2))

    async def refuse():
        raise RuntimeError("already receiving")

    iterator = impl.MessageIterator(setup.decoder, setup.turn, refuse, setup.resume)
    setup.turn.busy = True
    with pytest.raises(RuntimeError, match="already receiving"):
        step(iterator.__anext__())
    setup.turn.busy = False
    assert step(iterator.__anext__()) == ("message", "0")


def test_a_message_with_too_many_fragments_is_left_to_wait(impl):
    setup = Setup(impl, max_fragments=1)
    setup.decoder.feed(frame(TEXT, b"a", fin=False) + frame(0, b"b"))
    assert step(setup.iterator.__anext__())[0] == "suspended"
    assert setup.waits == 1
    assert setup.decoder.violation is not None


def test_arguments_are_checked(impl):
    setup = Setup(impl)
    with pytest.raises((TypeError, AttributeError)):
        impl.Turn(None)
    with pytest.raises(TypeError):
        impl.MessageIterator(setup.decoder, setup.turn)
