"""``fastws demo`` as its user sees it: in a process of its own, with its children."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import fastws
from fastws.cli.demo import sample_every

from .command import TIMEOUT_S, execute, run, start

SHORT = ("demo", "--seconds", "0.05", "--blocked", "0")
RECEIVERS = ["fastws async for", "fastws batches", "websockets async for"]
BLOCKED = ['fastws receive="thread"', 'fastws receive="loop"', "websockets"]
LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for children in Linux's /proc")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Five messages: text that isn't ASCII, an empty one, and one beyond the default max_size of 1 MiB."""
    messages = ['{"price":"1.0"}', "\u20ac \U0001f4c8", "", "x" * (2**20 + 1), '{"price":"1.1"}']
    lines = ["wss://example.com/ <-> 99.5", "wss://example.com/ <- 99.9: {}"]
    lines += [f"{100 + number / 8}: {message}" for number, message in enumerate(messages)]
    path = tmp_path / "feed.txt"
    path.write_text("\n".join([*lines, "", ""]), encoding="utf-8")
    return path


def check(document: dict[str, Any]) -> None:
    """What must hold between the figures of any run."""
    assert [one["receiver"] for one in document["receivers"]] == RECEIVERS
    for one in document["receivers"]:
        assert one["messages"] > 0
        assert one["wall_s"] >= document["seconds"] * 0.9
        assert one["messages_per_s"] == pytest.approx(one["messages"] / one["wall_s"])
        assert one["cpu_us_per_message"] == pytest.approx(one["cpu_s"] / one["messages"] * 1e6)
        assert one["busy"] == pytest.approx(one["cpu_s"] / one["wall_s"])
        # A receiver is one thread.
        assert 0 < one["busy"] < 1.2
        assert one["memory_bytes"] >= 0
        paced = one["paced"]
        assert 0 < paced["messages"] <= paced["offered"]
        assert 0 < paced["age_p50_ms"] <= paced["age_p99_ms"] <= paced["age_max_ms"]


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """A run of all parts."""
    done = run(*SHORT[:-1], "1")
    assert done.returncode == 0, done.stderr
    return done


def test_the_table(done: subprocess.CompletedProcess[str]) -> None:
    assert f"fastws {fastws.__version__} ({fastws.IMPLEMENTATION}) and websockets " in done.stdout
    for name in RECEIVERS:
        row = re.search(
            rf"^{name} +([\d,]+)\*? +([\d.]+) µs +([\d.,]+) ms +([\d.,]+) ms +\+([\d.]+) MiB$",
            done.stdout,
            re.MULTILINE,
        )
        assert row is not None, done.stdout
        assert all(float(figure.replace(",", "")) >= 0 for figure in row.groups())
    total = re.search(r"^All ([\d,]+) messages sent were received", done.stdout, re.MULTILINE)
    assert total is not None
    assert int(total[1].replace(",", "")) > 0
    assert done.stdout.rstrip().split("\n")[-1].startswith("Against websockets, a message costs fastws ")
    # Progress isn't on standard output, and on a pipe it doesn't rewrite.
    assert done.stderr.split("\n") == [
        *(f"{name}, {how}" for name in RECEIVERS for how in ("as fast as it can", "at 20,000 messages/s")),
        "loops blocked for 1 s",
        "",
    ]


def test_json_of_a_recording(recording: Path) -> None:
    done = run(*SHORT, "--json", "--rate", "200", "--loop", "asyncio", "--recording", str(recording))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    check(document)
    sizes = [15, 8, 0, 2**20 + 1, 15]
    assert document["feed"] == {
        "recording": str(recording),
        "messages": 5,
        "mean_bytes": sum(sizes) / 5,
        "max_bytes": max(sizes),
        "complete": True,
    }
    assert document["loop"] == "asyncio"
    assert document["rate"] == 200
    assert document["blocked"] is None
    # 200 per second for 0.05 seconds, and all of them sampled as they are few.
    assert {one["paced"]["offered"] for one in document["receivers"]} == {10}
    assert {one["paced"]["sampled"] for one in document["receivers"]} == {10}


def test_the_plain_python_data_plane() -> None:
    """It has no receive threads, and says so."""
    done = run(*SHORT[:-1], "0.2", "--json", FASTWS_PURE="1")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    check(document)
    assert document["implementation"] == "pure"
    assert [one["receiver"] for one in document["blocked"]["receivers"]] == BLOCKED[1:]
    assert document["blocked"]["left_out"] == {BLOCKED[0]: "it needs the compiled core, and FASTWS_PURE is set"}


@pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")
def test_blocked_loops(done: subprocess.CompletedProcess[str]) -> None:
    """Whoever receives in a thread is still connected, and the newest message is a new one."""
    rows = {}
    for name in BLOCKED:
        row = re.search(
            rf"^{name} +(\d+) of (\d+) +(> )?([\d.,]+) ms +(survived|cut off, 1011) +([\d.,]+) ms +([\d,]+) +([\d,]+)$",
            done.stdout,
            re.MULTILINE,
        )
        assert row is not None, done.stdout
        rows[name] = row.groups()
    answered, pings, unanswered, slowest, survived, newest, missed, told = rows[BLOCKED[0]]
    assert (answered, unanswered, survived, missed) == (pings, None, "survived", told)
    assert float(slowest) < 500
    assert float(newest) < 500
    fresh = float(newest)
    for name in BLOCKED[1:]:
        answered, pings, unanswered, slowest, survived, newest, missed, told = rows[name]
        assert int(answered) < int(pings)
        assert (unanswered, slowest, survived) == ("> ", "500.0", "cut off, 1011")
        assert float(newest.replace(",", "")) > fresh
        assert int(missed.replace(",", "")) > int(told.replace(",", "")) >= 0


def test_modules_of_the_current_folder_are_not_mistaken_for_pythons(tmp_path: Path) -> None:
    (tmp_path / "selectors.py").write_text("raise SystemExit('wrong module')")
    done = execute("-P", "-m", "fastws", *SHORT, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


@pytest.mark.parametrize("messages", [0.5, 1, 10, 999, 1_000, 2_500, 7_000, 40_000, 700_001, 3.6e9])
def test_samples_are_enough_and_not_too_many(messages: float) -> None:
    every = sample_every(messages)
    assert min(messages, 1_000) <= messages / every <= 100_000
    assert every <= 7 or messages > 700_000


# Errors


def errors(*args: str) -> str:
    done = run("demo", *args)
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_missing_recording(tmp_path: Path) -> None:
    assert errors("--recording", str(tmp_path / "none")) == f"fastws: {tmp_path / 'none'}: No such file or directory\n"


def test_a_malformed_line(recording: Path) -> None:
    with recording.open("a") as file:
        file.write("what is this\n")
    assert errors("--recording", str(recording)).startswith(f"fastws: {recording}:9: neither ")


def test_a_recording_without_messages(tmp_path: Path) -> None:
    (tmp_path / "feed.txt").write_text("wss://example.com/ <-> 1.0\n")
    assert errors("--recording", str(tmp_path / "feed.txt")).endswith("feed.txt: no received message in it\n")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert errors("--port", str(port)) == f"fastws: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_block_that_is_too_short() -> None:
    assert "argument --blocked: 0.05 isn't between 0.1 and 3,600" in errors("--blocked", "0.05")


def test_uvloop_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from fastws.cli import demo, main

    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--loop", "uvloop"]) == 2
    assert capsys.readouterr().err == "fastws: --loop uvloop: uvloop isn't installed\n"


# Ends


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        # Where nobody collects orphans, those that have ended stay as zombies.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@LINUX
@pytest.mark.parametrize("moment", ["with the feed", "with a receiver", "in the burst", "when paced", "blocked"])
def test_ctrl_c_ends_it_cleanly(moment: str) -> None:
    seconds = {"when paced": "0.3", "blocked": "0.05"}.get(moment, "30")
    process = start("demo", "--seconds", seconds, "--blocked", "30", process_group=0)
    assert process.stderr is not None
    seen = ""
    if moment == "with the feed":
        wait_for(lambda: children(process.pid))
    elif moment == "with a receiver":
        wait_for(lambda: len(children(process.pid)) == 2)
    elif moment == "in the burst":
        seen = process.stderr.readline()
        time.sleep(0.3)
    elif moment == "when paced":
        seen = process.stderr.readline() + process.stderr.readline()
        time.sleep(0.1)
    elif moment == "blocked":
        while seen != "loops blocked for 30 s\n":
            seen = process.stderr.readline()
        wait_for(lambda: len(children(process.pid)) == 1 + len(BLOCKED) - (fastws.IMPLEMENTATION == "pure"))
        time.sleep(0.2)
    found = children(process.pid)
    # As a terminal does it: to all processes of the foreground group.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert out == ""
    steps = r"loops blocked for .*" if moment == "blocked" else r"fastws async for, .*"
    assert all(re.fullmatch(steps, line) for line in (seen + err).splitlines())
    assert not list(filter(running, found))


@LINUX
def test_children_end_with_a_parent_that_is_killed() -> None:
    process = start("demo", "--seconds", "30")
    assert process.stderr is not None
    process.stderr.readline()
    found = children(process.pid)
    assert len(found) == 2
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    wait_for(lambda: not any(map(running, found)))


@LINUX
def test_a_receiver_that_dies_is_told() -> None:
    process = start("demo", "--seconds", "30")
    assert process.stderr is not None
    process.stderr.readline()
    feed, receiver = children(process.pid)
    os.kill(receiver, signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert err == "fastws: fastws async for: the receiver has died\n"
    assert not running(feed)


@LINUX
def test_a_feed_that_dies_is_told() -> None:
    process = start("demo", "--seconds", "30")
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.3)
    feed, receiver = children(process.pid)
    os.kill(feed, signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert err.startswith("fastws: fastws async for: ")
    assert err.count("\n") == 1
    assert not running(receiver)
