"""Whole loops: CPU per message of fastws and its peers, each in a process of its own, in turn, pinned to one core.

From the root of the repository: ``python -m benchmarks.loops`` (under two minutes), ``--work all`` for everything,
``--targets`` for what fastws is to reach next to what it reaches, ``--quick`` to see that it works.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if not __package__:
    # Run by its path: the folder of this file must not be where modules are looked for, the repository must.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from benchmarks.loops import history, report
from benchmarks.loops.certificate import make_certificate
from benchmarks.loops.contenders import CONTENDERS
from benchmarks.loops.measure import cores
from benchmarks.loops.runner import Bench, start_source
from benchmarks.loops.worker import LOOPS
from benchmarks.loops.works import WORKS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops", description=__doc__)
    parser.add_argument("--work", nargs="+", choices=[*WORKS, "all"], help="default: json150; with --targets: all")
    parser.add_argument("--loop", nargs="+", choices=LOOPS, default=["uvloop", "asyncio"])
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, help="default: all that do the work")
    parser.add_argument("--rounds", type=int, help="runs of each contender (default 5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="fewer messages, nothing recorded")
    parser.add_argument("--targets", action="store_true", help="end with a table of targets")
    parser.add_argument("--no-history", action="store_true", help="don't record the figures in benchmarks/history")
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 1 if args.quick else 5
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}, must be 1 or more")
    if args.work is None:
        args.work = ["all"] if args.targets else ["json150"]
    if "all" in args.work:
        args.work = list(WORKS)
    return args


def main() -> None:
    args = parse_args()
    here = history.machine()
    print(f"{here['cpu']}, {here['cores']} cores, Python {here['python']}")
    print(", ".join(f"{name} {version}" for name, version in history.versions().items()))
    if cores()[0] is None:
        print("Not pinned: there is one core, or this system can't pin.")
    results: dict[tuple[str, str], report.Samples] = {}
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder)) if any(WORKS[name].tls for name in args.work) else None
        for name in args.work:
            work = WORKS[name].quick() if args.quick else WORKS[name]
            contenders = [one for one in work.contenders if args.contender is None or one in args.contender]
            if not contenders:
                continue
            own = certificate if work.tls else None
            with start_source(work, args.quick, own) as hello:
                for loop in args.loop:
                    bench = Bench(work, loop, hello, quick=args.quick, cafile=own[0] if own else None)
                    results[name, loop] = bench.rounds(contenders, args.rounds)
                    print(f"\n{report.results_table(work, loop, results[name, loop])}", end="", flush=True)
                    if not (args.quick or args.no_history):
                        history.append(work, loop, results[name, loop])
    if args.targets:
        print(f"\n{report.targets_table(results)}", end="")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
