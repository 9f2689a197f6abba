"""A record of each run, per machine and commit: one line of JSON in ``benchmarks/history/<machine>.jsonl``."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import ssl
import subprocess
import zlib
from pathlib import Path
from typing import Any

import fastws
from benchmarks.loops.report import Samples
from benchmarks.loops.works import Work

__all__ = ["append", "machine", "versions"]

FOLDER = Path(__file__).parent.parent / "history"
PACKAGES = ("fastws", "picows", "websockets", "aiohttp", "aiofastnet", "uvloop")


def machine() -> dict[str, Any]:
    """What figures depend on, without anything that names a host."""
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what takes part; picows uses aiofastnet's transports where that is installed."""
    found = {"OpenSSL": ssl.OPENSSL_VERSION, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "fastws" in found:
        found["fastws"] += f" ({fastws.IMPLEMENTATION})"
    return found


def append(work: Work, loop: str, samples: Samples) -> Path:
    """Add one work on one loop to this machine's history; returns the file."""
    here = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']} cores python {here['python']}".lower()).strip("-")
    path = FOLDER / f"{slug}.jsonl"
    record = {
        "commit": _git("rev-parse", "HEAD"),
        # Whether code was changed since; the history itself doesn't count.
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/history")),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": here,
        "versions": versions(),
        "work": work.name,
        "loop": loop,
        "count": work.block * work.repeats,
        "rounds": {
            contender: {measure: [round(figures[measure], 1) for figures in rounds] for measure in rounds[0]}
            for contender, rounds in samples.items()
        },
    }
    FOLDER.mkdir(exist_ok=True)
    with path.open("a") as history:
        history.write(json.dumps(record) + "\n")
    return path


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=FOLDER.parent.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
