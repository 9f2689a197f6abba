"""The XOR of RFC 6455 5.3.

Clients pay a regression here for each byte they send, servers for each byte they receive; from 16 KiB on it should run
at the speed of memory, or the compiler no longer makes vector instructions of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest

from benchmarks.core.cases import Timed, core

KEY = b"\x37\xfa\x21\x3d"


def masker(name: str) -> Callable[[bytes, bytes], bytes]:
    if name == "websockets":
        try:
            function: Callable[[bytes, bytes], bytes] = importlib.import_module("websockets.speedups").apply_mask
        except ImportError:
            pytest.skip("websockets has no compiled apply_mask here")
        return function
    function = core(name).apply_mask
    return function


@pytest.mark.parametrize("name", ["compiled", "reference", "websockets"])
@pytest.mark.parametrize("size", [150, 16 * 1024, 2**20])
def test_mask(timed: Timed, name: str, size: int) -> None:
    data = bytes(index * 7 % 251 for index in range(size))
    masked = timed(f"mask {size:,} bytes", size, masker(name), data, KEY)
    assert masked == bytes(byte ^ KEY[index % 4] for index, byte in enumerate(data))
