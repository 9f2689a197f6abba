"""What the demo says about its figures."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from fastws.cli.demo_result import Measured, as_json, compared, notes, table, verdict
from fastws.cli.progress import Progress

ITERATE = Measured("iterate", 1_000_000, 0.5, 0.52, 3 * 2**20, 200, 200, False, [n * 10_000 for n in range(1, 101)])
BATCHES = dataclasses.replace(ITERATE, receiver="batches", cpu_s=0.25, wall_s=0.26)
WEBSOCKETS = dataclasses.replace(
    ITERATE, receiver="websockets", cpu_s=5.0, wall_s=5.1, ages_ns=[n * 70_000 for n in range(1, 101)]
)
ALL = [ITERATE, BATCHES, WEBSOCKETS]


def test_figures_are_per_message_and_per_second() -> None:
    assert ITERATE.cpu_us == pytest.approx(0.5)
    assert ITERATE.messages_per_s == pytest.approx(1_000_000 / 0.52)
    assert ITERATE.busy == pytest.approx(0.5 / 0.52)


@pytest.mark.parametrize(("quantile", "age_ms"), [(0.0, 0.01), (0.5, 0.5), (0.99, 0.99), (0.991, 1.0), (1.0, 1.0)])
def test_quantiles_of_ages_are_ages_that_were_seen(quantile: float, age_ms: float) -> None:
    assert ITERATE.age_ms(quantile) == age_ms


def test_one_age_is_every_quantile() -> None:
    one = dataclasses.replace(ITERATE, ages_ns=[2_000_000])
    assert [one.age_ms(quantile) for quantile in (0.0, 0.5, 0.99, 1.0)] == [2.0] * 4


def test_the_table_has_a_line_for_each_receiver_and_aligned_columns() -> None:
    head, *lines = table(ALL).split("\n")
    assert [line.split("  ")[0] for line in lines] == ["fastws async for", "fastws batches", "websockets async for"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert lines[0].split("  ")[1:] != lines[1].split("  ")[1:]
    for figure in ("1,923,077", "0.50 µs", "0.50 ms", "0.99 ms", "+3.0 MiB"):
        assert f" {figure}" in lines[0]


def test_the_verdict_gives_the_ratios_as_measured() -> None:
    text = verdict(ALL, 20_000)
    assert "10.0 times less CPU" in text
    assert "20 times less with batches" in text
    assert "at 20,000 messages/s, 99% of them are younger than 0.99 ms with fastws and 6.93 ms with websockets." in text
    assert text.count("\n") == 0


def test_the_verdict_says_so_when_fastws_is_slower() -> None:
    slow = dataclasses.replace(ITERATE, cpu_s=12.5)
    assert "2.5 times more CPU" in verdict([slow, BATCHES, WEBSOCKETS], 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (1.0, 1.04, "about as much"),
        (1.04, 1.0, "about as much"),
        (1.0, 1.06, "1.1 times less"),
        (1.0, 19.94, "19.9 times less"),
        (1.0, 42.4, "42 times less"),
        (3.0, 1.0, "3.0 times more"),
    ],
)
def test_ratios_in_words(ours: float, theirs: float, text: str) -> None:
    assert compared(ours, theirs) == text


def test_without_ages_there_is_nothing_said_of_them() -> None:
    quiet = [dataclasses.replace(one, ages_ns=[]) for one in ALL]
    assert verdict(quiet, 1.0).endswith("with batches.")
    assert table(quiet).count(" -") == 6
    assert as_json(quiet)[0]["paced"]["age_p99_ms"] is None
    json.dumps(as_json(quiet), allow_nan=False)


def test_a_receiver_that_waits_is_marked() -> None:
    idle = dataclasses.replace(ITERATE, wall_s=1.0)
    assert "1,000,000* " in table([idle, BATCHES, WEBSOCKETS])
    assert any(note.startswith("* used less than") for note in notes([idle, BATCHES, WEBSOCKETS], 1.0, 1.0))
    assert "*" not in table(ALL) + "".join(notes(ALL, 1.0, 1.0))


def test_who_could_not_keep_up_is_named() -> None:
    slow = dataclasses.replace(WEBSOCKETS, offered=300, slow=True)
    assert "websockets async for: of 300 messages due, it took only 200, ever later." in notes([slow], 1.0, 300.0)
    assert "ms with websockets" in verdict([ITERATE, BATCHES, slow], 300.0)


def test_a_feed_that_could_not_keep_up_is_no_receivers_fault() -> None:
    starved = dataclasses.replace(ITERATE, offered=300)
    found = notes([starved], 1.0, 300.0)
    assert "fastws async for: of 300 messages due, the feed could send only 200, ever later." in found
    assert "ms with" not in verdict([starved, BATCHES, WEBSOCKETS], 300.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    progress = Progress(terminal)
    progress.step("receiving")
    progress.figure("1,000 messages")
    progress.clear()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().split("\r\x1b[K") == ["", "receiving", "receiving: 1,000 me", ""]


def test_progress_elsewhere_is_plain_lines() -> None:
    pipe = io.StringIO()
    progress = Progress(pipe)
    progress.step("receiving")
    progress.figure("1,000 messages")
    progress.step("done")
    progress.clear()
    assert pipe.getvalue() == "receiving\ndone\n"
