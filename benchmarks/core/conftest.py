"""What the benchmarks of the core share as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.core.cases import Timed, core


@pytest.fixture(autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """Skip what needs the compiled core where it isn't built."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and "compiled" in callspec.params.values():
        try:
            core("compiled")
        except ImportError:
            pytest.skip("the compiled core isn't built: python setup.py build_ext --inplace")


@pytest.fixture
def timed(benchmark: Any) -> Timed:
    """Time a call, and note how many bytes of messages it handles in a second."""

    def run(group: str, nbytes: int, function: Callable[..., Any], *args: Any) -> Any:
        benchmark.group = group
        result = benchmark(function, *args)
        benchmark.extra_info["bytes"] = nbytes
        # There are no figures with --benchmark-disable.
        if benchmark.stats is not None:
            benchmark.extra_info["bytes_per_s"] = round(nbytes / benchmark.stats.stats.median)
        return result

    return run
