"""Fixtures of the connection layer's tests."""

from __future__ import annotations

import os

import pytest
from interop.certificate import Certificate, make_certificate

import fastws

from .net import PLAIN, Link, tls_link

ALL = os.environ.get("FASTWS_TEST_ALL", "0") not in ("", "0")
RECEIVERS = ["loop", "thread"] if fastws.IMPLEMENTATION == "compiled" else ["loop"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Some tests are about the loop itself.

    A receive thread with uvloop differs from one with asyncio in how the loop is woken, and one with TLS in where bytes
    come from, which tests/pump tries: here, FASTWS_TEST_ALL=1 does.
    """
    kept, dropped = [], []
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        elsewhere = parameters.get("loop_name") == "uvloop" or "tls" in parameters.values()
        in_loop = item.get_closest_marker("loop_receives") or (elsewhere and not ALL)
        (dropped if parameters.get("receive") == "thread" and in_loop else kept).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.fixture(params=RECEIVERS, autouse=True)
def receive(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the sockets: each test runs with the event loop, and with a receive thread."""
    receiver: str = request.param
    monkeypatch.setenv("FASTWS_RECEIVE", receiver)
    return receiver


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    made = make_certificate(tmp_path_factory.mktemp("certificate"))
    if made is None:
        pytest.skip("TLS needs the package cryptography or the command openssl to make a certificate")
    return made


@pytest.fixture
def tls(certificate: Certificate) -> Link:
    """TLS on loopback."""
    return tls_link(certificate.server_context(), certificate.client_context())


@pytest.fixture(params=["plain", "tls"])
def link(request: pytest.FixtureRequest) -> Link:
    """Plain and TLS in turn."""
    return PLAIN if request.param == "plain" else request.getfixturevalue("tls")


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """Which side fastws is on."""
    side: str = request.param
    return side
