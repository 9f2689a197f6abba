"""Memory and system calls that fail: the short form of tests/native/faults.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from native.faults import why_not

from fastws.core import IMPLEMENTATION

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(IMPLEMENTATION != "compiled", reason="of the compiled core"),
    pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer takes the place of the library"),
]


def try_faults(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.native.faults", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]


def test_memory_that_is_missing_costs_no_message() -> None:
    try_faults("--steps")


@pytest.mark.parametrize(
    ("scenario", "faults", "most"),
    [("thread-answers", ["memory", "send-enobufs"], "9"), ("loop-deflate", ["memory"], "3")],
)
def test_a_call_that_fails_ends_a_connection_at_most(scenario: str, faults: list[str], most: str) -> None:
    try_faults("--scenarios", scenario, "--faults", *faults, "--most", most)
