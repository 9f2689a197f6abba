"""Starts the source and the contenders, in processes of their own, and checks what comes back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.loops.measure import cores
from benchmarks.loops.report import Samples
from benchmarks.loops.works import Work

__all__ = ["Bench", "start_source"]

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 120.0


@contextlib.contextmanager
def start_source(work: Work, quick: bool, certificate: tuple[Path, Path] | None) -> Iterator[dict[str, Any]]:
    """Run the source for one workload; gives its hello."""
    _, core = cores()
    command = [sys.executable, "-m", "benchmarks.loops.source", "--work", work.name]
    command += ["--quick"] if quick else []
    command += ["--core", str(core)] if core is not None else []
    command += ["--certificate", *map(str, certificate)] if certificate is not None else []
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the source of {work.name} didn't start")
        yield json.loads(line)
    finally:
        process.kill()
        process.communicate()


class Bench:
    """One workload on one loop.

    Args:
        work: The workload, scaled already.
        loop: A name from `worker.LOOPS`.
        hello: What the source said.
        quick: Whether the workload was scaled.
        cafile: The certificate that TLS clients are to trust.
    """

    def __init__(self, work: Work, loop: str, hello: dict[str, Any], *, quick: bool, cafile: Path | None) -> None:
        self.work = work
        self.loop = loop
        self.hello = hello
        self.spec = {
            "work": work.name,
            "loop": loop,
            "port": hello["port"],
            "wire_bytes": hello["wire_bytes"],
            "quick": quick,
            "core": cores()[0],
            "cafile": str(cafile) if cafile is not None else None,
        }

    def run(self, contender: str, mode: str) -> dict[str, Any]:
        """One run of one contender in a fresh process."""
        spec = json.dumps({**self.spec, "contender": contender, "mode": mode})
        command = [sys.executable, "-m", "benchmarks.loops.worker", spec]
        try:
            # A session of its own: Ctrl-C is this process's to handle, and run() ends the contender then.
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
                start_new_session=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
            reason = "took too long" if isinstance(exc, subprocess.TimeoutExpired) else "failed"
            raise SystemExit(f"{contender} {reason} at {self.work.name} on {self.loop} ({mode})") from None
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def check(self, contender: str) -> None:
        """One untimed pass over the block: every message, byte for byte and in order."""
        kind = self.work.kind
        if kind == "memory" or (contender == "raw" and kind == "burst"):
            return
        result = self.run(contender, "check")
        if kind == "echo":
            right = result["right"]
        else:
            right = all(result[name] == self.hello[name] for name in ("count", "bytes", "crc"))
        if not right:
            raise SystemExit(f"{contender} didn't get what was sent at {self.work.name} on {self.loop}: {result}")

    def measure(self, contender: str) -> dict[str, float]:
        """One timed run; figures per message."""
        result = self.run(contender, "time")
        messages = self.work.block * self.work.repeats
        if self.work.kind == "send":
            # The sink answers only once all bytes are there.
            right = result["wire_bytes"] > 0
        elif contender == "raw" and self.work.kind == "burst":
            right = result["count"] == self.hello["wire_bytes"] * self.work.repeats
        else:
            right = result["count"] == messages and result.get("right", True)
        if not right:
            raise SystemExit(f"{contender} lost something at {self.work.name} on {self.loop}: {result}")
        figures = {"cpu_ns": result["cpu_ns"] / messages, "wall_ns": result["wall_ns"] / messages}
        if "rss_bytes" in result:
            figures["rss_bytes"] = result["rss_bytes"]
        return figures

    def rounds(self, contenders: list[str], count: int) -> Samples:
        """All contenders in turn, ``count`` times, beginning with another one each time."""
        for contender in contenders:
            self.check(contender)
        samples: Samples = {contender: [] for contender in contenders}
        for number in range(count):
            start = number % len(contenders)
            for contender in contenders[start:] + contenders[:start]:
                samples[contender].append(self.measure(contender))
        return samples
