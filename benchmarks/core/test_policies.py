"""What a policy, a key or a number costs for each message, over plain Block; as a table: ``benchmarks.core.policies``.

A regression here is paid by whoever chooses a policy, and by nobody else: if Block is slower, too, look at decoding. If
only pointers are slower, look at the walk over JSON; if only Between, at the search for markers; if both, at keys.
"""

from __future__ import annotations

import pytest

from benchmarks.core import policies
from benchmarks.core.cases import Timed


@pytest.mark.parametrize("name", ["compiled", "reference"])
@pytest.mark.parametrize("policy", [*policies.POLICIES, policies.OBSERVED])
def test_admit(timed: Timed, name: str, policy: str) -> None:
    assert timed(f"admit, {name}", policies.nbytes(), policies.decode, name, policy) == policies.COUNT


@pytest.mark.parametrize("name", ["compiled", "reference"])
@pytest.mark.parametrize(
    ("policy", "left"),
    [("Block", policies.COUNT), ("DropOldest", 1000), ("Conflate, pointer", 270), ("Conflate, Between", 270)],
)
def test_overload(timed: Timed, name: str, policy: str, left: int) -> None:
    assert timed(f"admit in overload, {name}", policies.nbytes(), policies.overload, name, policy) == left
