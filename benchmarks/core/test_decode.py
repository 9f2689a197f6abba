"""Frames from the wire into batches, 256 KiB at a time.

A regression here is paid for each message by everybody who receives, whatever the loop; if only the case of small
frames is slower, look at headers and records, if only that of large ones, at copying, masking and UTF-8.
"""

from __future__ import annotations

import pytest

from benchmarks.core.cases import CASES, DECODERS, Case, Timed, read_all


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_decode(timed: Timed, name: str, case: Case) -> None:
    assert read_all(name, case) == case.stream.digest
    count = timed(f"decode {case.name}", case.nbytes, DECODERS[name], case)
    assert count == len(case.messages)
