"""Fuzz the compiled core against the plain-Python reference.

Usage: python -m tests.native.fuzz [--seconds N] [--seed S] [--out FOLDER]
       python -m tests.native.fuzz --replay FILE
       python -m tests.native.fuzz --atheris [options of libFuzzer]

Inputs are tried in a process of their own, so that a crash or an endless loop is a finding like any other. A failing
input is stored, made smaller and shown. The same seed tries the same inputs, as far as the time goes.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DIFFERENT = 77
"""Exit status of a process that found a difference; other failures are crashes."""

MOST_BYTES = 1500
HANGS_AFTER_S = 60
MINIMISE_S = 60
PROGRESS_S = 10


class Slot:
    """A file in which a worker leaves the input it is about to try, so that it outlives the worker."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16 + 64 * 1024))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @property
    def tried(self) -> int:
        """Inputs tried so far."""
        return int.from_bytes(self._memory[:8])

    @property
    def data(self) -> bytes:
        return self._memory[16 : 16 + int.from_bytes(self._memory[8:16])]

    def put(self, data: bytes) -> None:
        self._memory[16 : 16 + len(data)] = data
        self._memory[:16] = (self.tried + 1).to_bytes(8) + len(data).to_bytes(8)


def mutated(data: bytes, corpus: list[bytes], choices: random.Random) -> bytes:
    """The input with some bytes changed, removed, repeated, or spliced with another input."""
    result = bytearray(data)
    for _ in range(choices.choice((1, 1, 2, 4, 8))):
        place = choices.randrange(len(result) + 1)
        match choices.randrange(6):
            case 0 if place < len(result):
                result[place] = choices.randrange(256)
            case 1 if place < len(result):
                result[place] ^= 1 << choices.randrange(8)
            case 2:
                del result[place : place + choices.choice((1, 1, 2, 8, 64))]
            case 3:
                result[place:place] = choices.randbytes(choices.choice((1, 2, 8)))
            case 4:
                other = choices.choice(corpus)
                result[place:] = other[choices.randrange(len(other) + 1) :]
            case _:
                result[place:place] = result[place : place + choices.randrange(1, 64)]
    return bytes(result[:MOST_BYTES])


def work(slot: Slot, seed: int, seconds: float) -> None:
    """Try inputs until the time is over; the process ends with `DIFFERENT` at the first difference."""
    from .target import run

    choices = random.Random(seed)
    corpus: list[bytes] = [b""]
    seen: set[object] = set()
    end = time.monotonic() + seconds
    shown = time.monotonic()
    tried = 0
    while (now := time.monotonic()) < end:
        if choices.randrange(4) == 0:
            data = choices.randbytes(choices.randrange(1, choices.choice((50, 300, MOST_BYTES))))
        else:
            # The newest inputs are the ones whose neighbours were tried least.
            newest = corpus[-64:] if choices.randrange(2) else corpus
            data = mutated(choices.choice(newest), corpus, choices)
        slot.put(data)
        tried += 1
        features = try_one(run, data)
        if not features <= seen:
            seen |= features
            corpus.append(data)
        if now - shown >= PROGRESS_S:
            shown = now
            print(f"{end - now:6.0f} s left: {tried} inputs, {len(corpus)} kept, {len(seen)} features", flush=True)
    print(f"{tried} inputs, {len(corpus)} kept, {len(seen)} features", flush=True)


def try_one(run: Callable[[bytes], frozenset[object]], data: bytes) -> frozenset[object]:
    """Run one input; any exception ends the process with what it says as the last line."""
    try:
        return run(data)
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(DIFFERENT)


def child(*options: str) -> list[str]:
    return [sys.executable, "-m", "tests.native.fuzz", *options]


def signature(data: bytes, folder: Path) -> tuple[int | str, str] | None:
    """How an input fails: exit status, and for a difference its kind; None if it doesn't."""
    path = folder / "tried"
    path.write_bytes(data)
    try:
        done = subprocess.run(
            child("--replay", str(path), "--quiet"), capture_output=True, text=True, timeout=HANGS_AFTER_S
        )
    except subprocess.TimeoutExpired:
        return "hangs", ""
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode == DIFFERENT else ""
    # Without the number of the step, and without values.
    return done.returncode, last.split(": ")[0] + last.partition("(")[2].partition(":")[0]


def minimised(data: bytes, fails: Callable[[bytes], bool], seconds: float) -> bytes:
    """Remove pieces, then zero bytes, for as long as it still fails."""
    end = time.monotonic() + seconds
    size = max(1, len(data) // 2)
    while size:
        place = 0
        while place < len(data) and time.monotonic() < end:
            shorter = data[:place] + data[place + size :]
            if fails(shorter):
                data = shorter
            else:
                place += size
        size //= 2
    for place in range(len(data)):
        simpler = data[:place] + b"\x00" + data[place + 1 :]
        if simpler != data and time.monotonic() < end and fails(simpler):
            data = simpler
    return data


def watch(slot: Slot, process: subprocess.Popen[bytes]) -> int | str:
    """Wait for the worker; its exit status, or "hangs" if it stays at one input for too long."""
    tried, since = -1, time.monotonic()
    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if slot.tried != tried:
                tried, since = slot.tried, time.monotonic()
            elif time.monotonic() - since > HANGS_AFTER_S and tried > 0:
                process.kill()
                process.wait()
                return "hangs"


def fuzz(seed: int, seconds: float, out: Path) -> int:
    """Run a worker; store and shrink what it fails at. Returns the exit status."""
    print(f"fuzzing for {seconds:g} s with seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slot = Slot(folder / "slot")
        options = ("--worker", str(folder / "slot"), "--seed", str(seed), "--seconds", str(seconds))
        status = watch(slot, subprocess.Popen(child(*options)))
        if status == 0:
            print("no difference, no crash")
            return 0
        if slot.tried == 0:
            print(f"the worker ended with {status} before its first input")
            return 2
        data = slot.data
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"fuzz-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"the worker ended with {status} at input {slot.tried}, stored in {path}; making it smaller", flush=True)
        kind = signature(data, folder)
        if kind is None:
            print("it doesn't fail by itself: it takes the inputs before it, which the same seed tries again")
            return 1
        smaller = minimised(data, lambda shorter: signature(shorter, folder) == kind, MINIMISE_S)
    path = out / f"fuzz-{hashlib.sha256(smaller).hexdigest()[:12]}"
    path.write_bytes(smaller)
    print(f"{len(smaller)} instead of {len(data)} bytes. Replay: python -m tests.native.fuzz --replay {path}")
    subprocess.run(child("--replay", str(path)))
    return 1


def replay(path: Path, quiet: bool) -> int:
    """Show and try a stored input."""
    from .scenario import describe
    from .target import run, scenario_in

    data = path.read_bytes()
    if not quiet:
        scenario = scenario_in(data)
        print("not about a decoder" if scenario is None else describe(scenario), flush=True)
    try_one(run, data)
    if not quiet:
        print("no difference")
    return 0


def run_atheris(arguments: list[str]) -> None:
    """Let atheris choose the inputs, guided by the branches of the reference."""
    import atheris

    with atheris.instrument_imports(include=["fastws.reference"]):
        from .target import one_input
    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--out", type=Path, default=Path("build") / "fuzz", help="where failing inputs go")
    parser.add_argument("--replay", type=Path, help="try a stored input")
    parser.add_argument("--quiet", action="store_true", help="with --replay: show only the failure")
    parser.add_argument("--atheris", action="store_true", help="let atheris choose; other options go to libFuzzer")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args, others = parser.parse_known_args()
    if args.atheris:
        run_atheris(others)
        return 0
    if others:
        parser.error(f"unknown options: {' '.join(others)}")
    if args.replay is not None:
        return replay(args.replay, args.quiet)
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    if args.worker is not None:
        work(Slot(args.worker), seed, args.seconds)
        return 0
    return fuzz(seed, args.seconds, args.out)


if __name__ == "__main__":
    sys.exit(main())
