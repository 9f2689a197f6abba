"""Options of the interoperability tests.

Environment:
    FASTWS_INTEROP: Peers outside of Python to run with, comma-separated (``node,bun,browser`` or ``all``).
    FASTWS_INTEROP_MODULE: Module under test; ``websockets`` proves the tests themselves (default ``fastws``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from connection.conftest import certificate

from .certificate import Certificate
from .peer import Setup
from .websockets_peers import AsyncioPeer

__all__ = ["certificate"]

MODULE = os.environ.get("FASTWS_INTEROP_MODULE", "fastws")

# Every pair of (loop, TLS), (loop, deflate), (TLS, deflate) occurs.
COMBINATIONS = [
    ("asyncio", "plain", "flat"),
    ("asyncio", "tls", "deflate"),
    ("uvloop", "plain", "deflate"),
    ("uvloop", "tls", "flat"),
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interop: needs a peer outside of Python; see tests/interop/README.md")


@pytest.fixture
def under_test() -> AsyncioPeer:
    """The module under test."""
    return AsyncioPeer(MODULE, MODULE)


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def combination(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    combination: tuple[str, str, str] = request.param
    return combination


@pytest.fixture
def setup(combination: tuple[str, str, str], request: pytest.FixtureRequest) -> Setup:
    """TLS and deflate as the combination says."""
    made = Setup(deflate=combination[2] == "deflate")
    if combination[1] == "tls":
        certificate: Certificate = request.getfixturevalue("certificate")
        made = dataclasses.replace(
            made,
            server_ssl=certificate.server_context(),
            client_ssl=certificate.client_context(),
            cert=str(certificate.cert),
            key=str(certificate.key),
        )
    return made


@pytest.fixture
def run(combination: tuple[str, str, str]) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on the loop of the combination."""
    if combination[0] == "uvloop":
        pytest.importorskip("uvloop")

    def run(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await main

        with asyncio.Runner(loop_factory=importlib.import_module(combination[0]).new_event_loop) as runner:
            runner.run(bounded())

    return run
