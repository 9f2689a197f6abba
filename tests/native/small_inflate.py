"""Compile and run small_inflate.cpp under AddressSanitizer and UndefinedBehaviorSanitizer.

Usage: python -m tests.native.small_inflate [--seconds N] [--seed S]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    program = ROOT / "build" / "small_inflate"
    program.parent.mkdir(exist_ok=True)
    options = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", f"-I{ROOT / 'src_cython' / 'fastws'}"]
    options += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    source = HERE / "small_inflate.cpp"
    subprocess.run([os.environ.get("CXX", "g++"), *options, str(source), "-o", str(program), "-lz"], check=True)
    print(f"{args.seconds:g} s with seed {seed}", flush=True)
    return subprocess.run([str(program), str(args.seconds), str(seed)]).returncode


if __name__ == "__main__":
    sys.exit(main())
