"""The feed, over loopback: every message in order, when it is due, and reports that say so."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import fastws
from fastws.market import Feed, Tape

TIMEOUT_S = 20.0


@asynccontextmanager
async def serving(tape: Tape) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    reports: list[dict[str, Any]] = []
    async with asyncio.timeout(TIMEOUT_S), Feed(tape, reports.append).serve() as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", reports


async def received(url: str) -> list[str]:
    async with fastws.connect(url, compression=None, max_size=None) as websocket:
        await websocket.send("go")
        messages = [message async for message in websocket]
        assert websocket.close_code == 1000
        return messages


async def last(reports: list[dict[str, Any]]) -> dict[str, Any]:
    while not reports or "progress" in reports[-1]:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return reports[-1]


def repeated(tape: Tape, count: int) -> list[str]:
    return [message.decode() for message in itertools.islice(itertools.cycle(tape.messages), count)]


@pytest.mark.parametrize("count", [1, 3000])
async def test_a_burst_is_the_tape_over_and_over(count: int) -> None:
    tape = Tape.simulated(count)
    async with serving(tape) as (url, reports):
        messages = await received(f"{url}/burst?seconds=0.1")
        report = await last(reports)
    assert report == {"sent": len(messages)}
    assert len(messages) > 3000
    assert messages == repeated(tape, len(messages))


async def test_a_burst_lasts_as_long_as_was_asked() -> None:
    async with serving(Tape.simulated(3000)) as (url, _):
        start = time.monotonic()
        await received(f"{url}/burst?seconds=0.3")
        assert time.monotonic() - start >= 0.3


async def test_progress_is_reported_and_grows() -> None:
    async with serving(Tape.simulated(500)) as (url, reports):
        await received(f"{url}/burst?seconds=0.5")
        await last(reports)
    progress = [report["progress"] for report in reports[:-1]]
    assert progress
    assert progress == sorted(progress)
    assert progress[-1] <= reports[-1]["sent"]


async def test_paced_messages_carry_when_they_were_due() -> None:
    tape = Tape.simulated(500)
    async with serving(tape) as (url, reports):
        before_us = time.time_ns() // 1000
        messages = await received(f"{url}/paced?seconds=0.3&rate=2000&sample=1")
        report = await last(reports)
    stamps = [json.loads(message)["data"]["E"] for message in messages]
    assert stamps == sorted(stamps)
    # By the same clock, from the same start as the schedule.
    schedule = [due_ns for due_ns, _ in itertools.islice(tape.schedule(2000.0), len(stamps))]
    for stamp, due_ns, scheduled in zip(stamps, report["due_ns"], schedule, strict=True):
        assert due_ns - report["due_ns"][0] == scheduled
        assert stamp - stamps[0] == pytest.approx(scheduled / 1000, abs=2)
    assert before_us <= stamps[0] < before_us + TIMEOUT_S * 1e6


async def test_paced_reports_account_for_every_message() -> None:
    tape = Tape([f"message {number}".encode() for number in range(40)], [0] * 40)
    async with serving(tape) as (url, reports):
        messages = await received(f"{url}/paced?seconds=0.2&rate=1000&sample=7")
        report = await last(reports)
    assert messages == repeated(tape, 200)
    assert report["sent"] == report["offered"] == 200
    assert report["crc32"] == zlib.crc32("".join(messages).encode())
    # Each seventh message: 7, 14, ... at a millisecond each, beginning with 0.
    assert len(report["due_ns"]) == 200 // 7
    assert [due - report["due_ns"][0] for due in report["due_ns"]] == [7_000_000 * n for n in range(200 // 7)]


async def test_no_message_comes_before_it_is_due() -> None:
    async with serving(Tape.simulated(300)) as (url, reports):
        async with fastws.connect(f"{url}/paced?seconds=0.2&rate=3000&sample=1", compression=None) as websocket:
            await websocket.send("go")
            seen = [time.monotonic_ns() async for _ in websocket]
        dues = (await last(reports))["due_ns"]
    assert len(seen) > 300
    assert all(due <= now for due, now in zip(dues, seen, strict=True))


async def test_a_receiver_that_reads_nothing_for_a_while_makes_messages_old() -> None:
    # 4 MiB of messages don't fit into what lies between the feed and a receiver that is limited to one message.
    tape = Tape([b"x" * 65536] * 4, [0, 1, 2, 3])
    async with serving(tape) as (url, reports):
        connecting = fastws.connect(
            f"{url}/paced?seconds=0.3&rate=4000&sample=1", compression=None, max_queue=1, max_queue_bytes=1
        )
        async with connecting as websocket:
            await websocket.send("go")
            await asyncio.sleep(0.5)
            count = sum([1 async for _ in websocket])
        report = await last(reports)
    assert report["sent"] == count < report["offered"] == 1200
    assert report["waited_s"] > 0.1


async def test_a_receiver_that_goes_is_reported() -> None:
    async with serving(Tape.simulated(100)) as (url, reports):
        async with fastws.connect(f"{url}/paced?seconds=9&rate=1000&sample=1", compression=None) as websocket:
            await websocket.send("go")
            await websocket.recv()
            websocket.transport.abort()
        assert list(await last(reports)) == ["lost"]
        # The next one is served.
        assert await received(f"{url}/burst?seconds=0.01")


@pytest.mark.parametrize(
    ("request_target", "reason"),
    [
        ("/", "no such feed: /"),
        ("/burst", "seconds is missing"),
        ("/burst?seconds=0", "seconds is 0, must be above 0"),
        ("/paced?seconds=1&rate=nan&sample=1", "rate is nan"),
        ("/paced?seconds=1&rate=inf&sample=1", "rate is inf"),
        ("/paced?seconds=1&rate=1", "sample is missing"),
        ("/burst?seconds=soon", "could not convert"),
    ],
)
async def test_requests_for_anything_else_are_refused(request_target: str, reason: str) -> None:
    async with serving(Tape.simulated(1)) as (url, reports):
        with pytest.raises(fastws.InvalidStatus) as caught:
            await received(url + request_target)
        assert caught.value.response.status_code == 404
        assert reason in caught.value.response.body.decode()
        assert not reports
