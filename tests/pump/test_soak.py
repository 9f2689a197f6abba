"""The soak, a little of it. ``FASTWS_SOAK_SECONDS`` makes it longer, ``FASTWS_SOAK_SEED`` another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastws
import fastws.security

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("FASTWS_SOAK_SECONDS", "3"))
SEED = os.environ.get("FASTWS_SOAK_SEED", "1")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it looks into /proc")
@pytest.mark.parametrize("link", ["plain", "tls"])
def test_accounts_add_up_and_nothing_is_left(link):
    """On asyncio and on uvloop, each with clients and servers of fastws, and a peer that is killed."""
    pytest.importorskip("uvloop")
    if link == "tls" and fastws.security.unreachable() is not None:
        pytest.skip("the libssl of this Python can't be reached")
    command = [sys.executable, "-m", "tests.pump.soak", "--seconds", str(SECONDS), "--round", "1.5", "--seed", SEED]
    command += ["--tls"] if link == "tls" else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr[-5000:]
    counts = {name: int(count.replace(",", "")) for count, _, name in map(partition, done.stdout.splitlines()) if name}
    assert counts["connections"] >= 5
    assert counts["messages in"] >= 100
    assert counts["rounds"] >= 2
    assert counts["agreed with the peer"] >= 1
    assert counts["heartbeats taken"] >= 1


def partition(line):
    """(count, " ", name) of a line that counts something."""
    count, _, name = line.strip().partition(" ")
    return (count, _, name) if count.replace(",", "").isdigit() and "MiB" not in line else ("", "", "")
