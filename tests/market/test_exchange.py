"""The simulated exchange: repeatable, and consistent as a venue's own streams are."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from typing import Any

import pytest

from fastws.market import simulate

COUNT = 20_000


@pytest.fixture(scope="module")
def published() -> list[tuple[int, dict[str, Any]]]:
    return [(time_us, json.loads(message)) for time_us, message in itertools.islice(simulate(7), COUNT)]


def by_stream(published: list[tuple[int, dict[str, Any]]], channel: str) -> dict[str, list[dict[str, Any]]]:
    streams = defaultdict(list)
    for _, message in published:
        if message["stream"].endswith("@" + channel):
            streams[message["stream"]].append(message["data"])
    assert streams
    return streams


def test_the_same_seed_gives_the_same_messages() -> None:
    assert list(itertools.islice(simulate(3), 2000)) == list(itertools.islice(simulate(3), 2000))


def test_another_seed_gives_other_messages() -> None:
    ours, theirs = ([message for _, message in itertools.islice(simulate(seed), 500)] for seed in (3, 4))
    assert not set(ours) & set(theirs)


def test_messages_differ_from_each_other() -> None:
    messages = [message for _, message in itertools.islice(simulate(), 5000)]
    assert len(set(messages)) == len(messages)


def test_each_message_carries_its_time(published: list[tuple[int, dict[str, Any]]]) -> None:
    for time_us, message in published:
        assert message["data"]["E"] == time_us
        assert 0 < time_us - message["data"]["T"] < 10_000


def test_times_never_go_back_and_come_in_groups(published: list[tuple[int, dict[str, Any]]]) -> None:
    times = [time_us for time_us, _ in published]
    assert times == sorted(times)
    assert max(Counter(times).values()) > 3


def test_start_is_the_callers() -> None:
    times = [time_us for time_us, _ in itertools.islice(simulate(start_us=10**15), 100)]
    assert 10**15 < times[0] < times[-1] < 10**15 + 10**6


def test_the_streams_are_those_of_the_symbols(published: list[tuple[int, dict[str, Any]]]) -> None:
    events = {"bookTicker": "bookTicker", "trade": "trade", "depth": "depthUpdate"}
    seen = Counter[str]()
    for _, message in published:
        symbol, _, channel = message["stream"].partition("@")
        assert message["data"]["s"] == symbol.upper()
        assert message["data"]["e"] == events[channel]
        seen[channel] += 1
    assert seen["bookTicker"] > seen["trade"] > seen["depth"] > COUNT / 50


def test_few_symbols_make_most_of_the_traffic(published: list[tuple[int, dict[str, Any]]]) -> None:
    counts = Counter(message["data"]["s"] for _, message in published).most_common()
    assert counts[0][1] > 5 * counts[-1][1]


def test_a_bid_is_below_its_ask(published: list[tuple[int, dict[str, Any]]]) -> None:
    for _, message in published:
        data = message["data"]
        if data["e"] == "bookTicker":
            assert 0 < float(data["b"]) < float(data["a"])
            assert float(data["B"]) > 0
            assert float(data["A"]) > 0


def test_trades_of_a_symbol_are_numbered(published: list[tuple[int, dict[str, Any]]]) -> None:
    for trades in by_stream(published, "trade").values():
        first = trades[0]["t"]
        assert [trade["t"] for trade in trades] == list(range(first, first + len(trades)))


def test_depth_updates_form_a_chain(published: list[tuple[int, dict[str, Any]]]) -> None:
    for updates in by_stream(published, "depth").values():
        for previous, update in itertools.pairwise(updates):
            assert update["pu"] == previous["u"]
            assert previous["u"] < update["U"] <= update["u"]


def test_levels_of_a_side_are_sorted_from_the_best(published: list[tuple[int, dict[str, Any]]]) -> None:
    removed = 0
    for updates in by_stream(published, "depth").values():
        for update in updates:
            bids, asks = ([float(price) for price, _ in update[side]] for side in "ba")
            assert bids == sorted(set(bids), reverse=True)
            assert asks == sorted(set(asks))
            removed += sum(float(quantity) == 0 for _, quantity in update["b"] + update["a"])
    assert removed
