"""Tapes: schedules, renewed times, and what of a recording is played."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws.market import RecordingError, Tape

ANY = settings(deadline=None)

TIMES = st.lists(st.integers(0, 10**10), min_size=1, max_size=50).map(
    lambda gaps: list(itertools.accumulate([0, *gaps]))
)
RATES = st.floats(0.1, 1e6)


def tape_of(times: list[int]) -> Tape:
    return Tape([b"%d" % index for index in range(len(times))], times)


def recording(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


@ANY
@given(TIMES, RATES)
def test_a_schedule_has_the_rate_that_was_asked_for(times: list[int], rate: float) -> None:
    count = len(times)
    due = [due_ns for due_ns, _ in itertools.islice(tape_of(times).schedule(rate), 3 * count + 1)]
    assert due[0] == 0
    assert due == sorted(due)
    # Whole laps are as long as the rate says.
    for lap in (1, 2, 3):
        assert due[lap * count] == pytest.approx(lap * count / rate * 1e9, rel=1e-9, abs=2)


@ANY
@given(TIMES, RATES)
def test_a_schedule_plays_all_messages_in_turn(times: list[int], rate: float) -> None:
    indices = [index for _, index in itertools.islice(tape_of(times).schedule(rate), 2 * len(times))]
    assert indices == [*range(len(times))] * 2


def test_gaps_keep_their_proportions() -> None:
    due = [due_ns for due_ns, _ in itertools.islice(tape_of([0, 0, 300, 400]).schedule(4.0), 5)]
    # One lap takes a second; three quarters of it for 400 units, a quarter from the last to the next first.
    assert due == [0, 0, 562_500_000, 750_000_000, 1_000_000_000]


@pytest.mark.parametrize("times", [[0], [0, 0, 0, 0]])
def test_messages_without_gaps_are_spread_evenly(times: list[int]) -> None:
    due = [due_ns for due_ns, _ in itertools.islice(tape_of(times).schedule(1000.0), 6)]
    assert due == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]


def test_a_simulated_tape_is_the_same_for_a_seed() -> None:
    assert Tape.simulated(500, seed=5) == Tape.simulated(500, seed=5)
    assert Tape.simulated(500, seed=5).messages != Tape.simulated(500, seed=6).messages


def test_stamping_renews_the_times_and_nothing_else() -> None:
    tape = Tape.simulated(300)
    assert tape.times_ns[0] == 0
    for index, message in enumerate(tape.messages):
        before = json.loads(message)
        after = json.loads(tape.stamp(index, 1_999_999_999_999_999))
        assert after["data"]["E"] == 1_999_999_999_999_999
        assert after["data"]["E"] - after["data"]["T"] == before["data"]["E"] - before["data"]["T"]
        for data in (before["data"], after["data"]):
            del data["E"], data["T"]
        assert after == before


def test_stamping_leaves_a_recorded_message_alone(tmp_path: Path) -> None:
    message = '{"E":1633998512068000,"T":1633998512068000}'
    tape = Tape.recorded(recording(tmp_path / "feed.txt", [f"1: {message}"]))
    assert tape.stamp(0, 1_999_999_999_999_999) == message.encode()


@ANY
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_blocks_are_the_messages_in_order(sizes: list[int], block_bytes: int) -> None:
    messages = [bytes(size) for size in sizes]
    blocks = list(Tape(messages, [0] * len(messages)).blocks(block_bytes))
    assert list(itertools.chain(*blocks)) == messages
    for block in blocks[:-1]:
        assert sum(map(len, block)) >= block_bytes > sum(map(len, block[:-1]))


def test_only_what_was_received_is_on_a_tape(tmp_path: Path) -> None:
    lines = ["wss://x <-> 9.0", "wss://x <- 9.5: subscribe", "10.0: one", "", "10.25: zw\u00f6lf"]
    tape = Tape.recorded(recording(tmp_path / "feed.txt", lines))
    assert tape.messages == [b"one", "zw\u00f6lf".encode()]
    assert tape.times_ns == [0, 250_000_000]
    assert tape.complete


def test_a_clock_that_was_set_back_stands_still(tmp_path: Path) -> None:
    tape = Tape.recorded(recording(tmp_path / "feed.txt", ["10: a", "11: b", "9: c", "12: d"]))
    assert tape.times_ns == [0, 10**9, 10**9, 2 * 10**9]


def test_a_long_recording_is_cut(tmp_path: Path) -> None:
    path = recording(tmp_path / "feed.txt", ["1: abcd", "2: efgh", "3: ijkl"])
    assert Tape.recorded(path, max_bytes=12).complete
    cut = Tape.recorded(path, max_bytes=11)
    assert (cut.messages, cut.complete) == ([b"abcd", b"efgh"], False)
    # One message is always there, however long.
    assert Tape.recorded(path, max_bytes=1).messages == [b"abcd"]


@pytest.mark.parametrize("lines", [[], ["wss://x <-> 1", "wss://x <- 2: hello"]])
def test_a_recording_without_messages_is_refused(tmp_path: Path, lines: list[str]) -> None:
    path = recording(tmp_path / "feed.txt", lines)
    with pytest.raises(RecordingError, match="no received message") as caught:
        Tape.recorded(path)
    assert str(caught.value).startswith(f"{path}: ")
