"""Run websockets' own tests, of asyncio or threads, with fastws's classes in place, and compare with plain websockets.

Usage: python tests/upstream/run.py --checkout PATH [--api sync] [--loop uvloop] [--receive thread] [--tries N]

PATH is a checkout of websockets' repository, of the version that is installed or near to it (its releases on PyPI have
no tests). The tests run twice: with websockets as it is, and with fastws's classes. A test that fails with fastws only
is a difference. Each must stand in expected.py with its reason, and each that stands there must differ.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from expected import EXPECTED, EXPECTED_SYNC, EXPECTED_THREAD, RACES_ON_UVLOOP

HERE = Path(__file__).resolve().parent
# Fewer passing tests with plain websockets say that the checkout or the environment is broken.
LEAST_PASSED = {"asyncio": 300, "sync": 120}
MOST_DRIFT = 20


def checkout_version(checkout: Path) -> str:
    """The version that the checkout says it is."""
    tree = ast.parse((checkout / "src" / "websockets" / "version.py").read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="tag"), *_], value=ast.Constant(value=value)):
                return str(value)
    return "unknown"


def run_tests(
    checkout: Path, implementation: str, args: argparse.Namespace, factor: float, only: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Run the tests in a process of its own; outcomes by test id."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, str(HERE / "suite.py"), str(checkout), str(results)]
        command += ["--with", implementation, "--api", args.api, "--loop", args.loop, "--receive", args.receive]
        command += ["--only", *only] if only else []
        env = os.environ | {"WEBSOCKETS_TESTS_TIMEOUT_FACTOR": str(factor)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
        if done.returncode or not results.exists():
            sys.exit(f"the tests with {implementation} didn't run:\n{done.stderr[-4000:]}")
        outcomes: dict[str, dict[str, Any]] = json.loads(results.read_text())
    return {test_id.removeprefix(f"tests.{args.api}."): outcome for test_id, outcome in outcomes.items()}


def run_with_retries(checkout: Path, implementation: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """As `run_tests`; what failed runs again with ten times the time, as the tests race with the clock."""
    outcomes = run_tests(checkout, implementation, args, args.factor)
    for _ in range(args.tries - 1):
        failed = [
            f"tests.{args.api}.{test_id}" for test_id, outcome in outcomes.items() if outcome["outcome"] == "failed"
        ]
        if not failed:
            break
        outcomes |= run_tests(checkout, implementation, args, args.factor * 10, failed)
    return outcomes


def count(outcomes: dict[str, dict[str, Any]], outcome: str) -> int:
    return sum(1 for o in outcomes.values() if o["outcome"] == outcome)


def expected_reason(test_id: str, expected: dict[str, str]) -> str | None:
    return next((reason for pattern, reason in expected.items() if fnmatch.fnmatchcase(test_id, pattern)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--api", choices=["asyncio", "sync"], default="asyncio")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--receive", choices=["loop", "thread"], default="loop", help="who receives in fastws.asyncio")
    parser.add_argument("--factor", type=float, default=2.0, help="unit of the tests' timeouts in ms (default: 2)")
    parser.add_argument("--tries", type=int, default=2, help="runs that a failing test gets (default: 2)")
    parser.add_argument("--with", dest="implementation", choices=["fastws", "websockets"], default="fastws",
                        help="websockets shows the plain outcomes only")  # fmt: skip
    args = parser.parse_args()
    checkout = args.checkout.resolve()
    if not (checkout / "tests" / "asyncio" / "test_connection.py").is_file():
        sys.exit(f"{checkout} is no checkout of websockets' repository with its tests")
    ours, installed = checkout_version(checkout), importlib.metadata.version("websockets")
    print(f"tests of websockets {ours}; installed is {installed}", flush=True)

    plain = run_with_retries(checkout, "websockets", args)
    drift = {test_id for test_id, outcome in plain.items() if outcome["outcome"] == "failed"}
    summary = "{}: {} passed, {} failed, {} skipped"
    print(summary.format("websockets", *(count(plain, o) for o in ("passed", "failed", "skipped"))), flush=True)
    for test_id in sorted(drift):
        last = plain[test_id]["detail"].strip().rpartition("\n")[2]
        print(f"  fails without fastws too, so it isn't compared: {test_id}: {last}")
    if count(plain, "passed") < LEAST_PASSED[args.api]:
        sys.exit(f"less than {LEAST_PASSED[args.api]} tests pass with plain websockets; is this the right checkout?")
    if len(drift) > MOST_DRIFT:
        sys.exit(f"more than {MOST_DRIFT} tests fail with plain websockets; is this the right checkout?")
    if args.implementation == "websockets":
        return

    fastws = run_with_retries(checkout, "fastws", args)
    print(summary.format("fastws", *(count(fastws, o) for o in ("passed", "failed", "skipped"))))
    bad = 0
    expected = EXPECTED_SYNC if args.api == "sync" else EXPECTED | (EXPECTED_THREAD if args.receive == "thread" else {})
    races = {t for t in plain for p in RACES_ON_UVLOOP if args.loop == "uvloop" and fnmatch.fnmatchcase(t, p)}
    for test_id in sorted(plain.keys() - drift - races):
        reason = expected_reason(test_id, expected)
        before, after = plain[test_id]["outcome"], fastws.get(test_id, {"outcome": "missing", "detail": ""})
        differs = after["outcome"] != before
        if differs and reason:
            print(f"  differs as expected: {test_id}: {reason}")
        elif differs:
            bad += 1
            print(f"  DIFFERS: {test_id}: {before} -> {after['outcome']}\n{after['detail'].strip()}\n")
        elif reason and before == "passed":
            bad += 1
            print(f"  PASSES, but expected.py says it can't: {test_id}: {reason}")
    for pattern in expected:
        if not fnmatch.filter(plain, pattern):
            bad += 1
            print(f"  NO SUCH TEST: {pattern} in expected.py")
    print(f"{bad} unexpected differences")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
