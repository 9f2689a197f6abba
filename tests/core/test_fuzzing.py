"""A little of the fuzzer, see tests/native: it goes on working, and finds nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_difference(compiled, tmp_path):
    """In a process of its own, as it counts the segments in use."""
    command = [sys.executable, "-m", "tests.native.fuzz", "--seconds", "1", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"^(\d+) inputs", done.stdout, re.MULTILINE)
    assert tried is not None, done.stdout
    assert int(tried[1]) >= 1
    assert list(tmp_path.iterdir()) == []
