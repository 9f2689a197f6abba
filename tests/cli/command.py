"""Running the command ``fastws`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
"""Until a command that hangs is ended; none needs a fifth of it."""


def run(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m fastws`` to its end."""
    return execute("-m", "fastws", *args, cwd=cwd, **environment)


def execute(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def start(*args: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command; it has written "ready" when it is in its own code, where Ctrl-C is its to handle."""
    # Whoever runs the tests in the background may have them ignore SIGINT, which is inherited.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from fastws.cli import main; print('ready', flush=True); sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
