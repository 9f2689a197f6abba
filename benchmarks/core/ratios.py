"""Decoding into batches: GB/s, and the multiple over the reference and websockets' parser.

From the root of the repository: ``python -m benchmarks.core.ratios``. It exits with 1 if 150-byte frames are decoded
at less than 1 GB/s.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

if not __package__:
    # Run by its path: modules are looked for from the root of the repository.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from benchmarks.core.cases import CASES, DECODERS, Case, read_all

TARGET_CASE, TARGET_BYTES_PER_S = "150 B", 1e9
BUDGET_S = 0.5


def bytes_per_s(name: str, case: Case) -> float:
    """Payload bytes a second in the best of the runs that fit into the budget, at least three."""
    decode = DECODERS[name]
    times: list[float] = []
    while len(times) < 3 or sum(times) < BUDGET_S:
        start = time.perf_counter()
        decode(case)
        times.append(time.perf_counter() - start)
    return case.nbytes / min(times)


def main() -> int:
    print(f"| messages | {' | '.join(f'{name}, GB/s' for name in DECODERS)} | over reference | over websockets |")
    print(f"|{' --- |' * (len(DECODERS) + 3)}")
    reached = 0.0
    for case in CASES.values():
        for name in DECODERS:
            if read_all(name, case) != case.stream.digest:
                raise SystemExit(f"{name} didn't decode what was encoded: {case.name}")
        speeds = {name: bytes_per_s(name, case) for name in DECODERS}
        own = speeds["compiled"]
        cells = [f"{speed / 1e9:.3f}" for speed in speeds.values()]
        cells += [f"{own / speeds[name]:.1f} times" for name in ("reference", "websockets")]
        print(f"| {case.name} | {' | '.join(cells)} |")
        if case.name == TARGET_CASE:
            reached = own
    print(f"\n{TARGET_CASE}: {reached / 1e9:.2f} GB/s, at least {TARGET_BYTES_PER_S / 1e9:.0f} wanted")
    return reached < TARGET_BYTES_PER_S


if __name__ == "__main__":
    sys.exit(main())
