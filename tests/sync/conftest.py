"""Fixtures of the tests of connections for threads."""

from __future__ import annotations

import importlib
import ssl
import sys
from typing import Any

import pytest
import websockets.sync.client
from connection.conftest import certificate
from interop.certificate import Certificate

import fastws

__all__ = ["certificate"]


@pytest.fixture(params=["websockets", "fastws"])
def module(request: pytest.FixtureRequest) -> Any:
    """What a program imports ``connect`` from: what both must do is tried with both."""
    if request.param == "websockets":
        parameters = request.node.callspec.params
        if parameters.get("scheme") == "wss" and not getattr(sys, "_is_gil_enabled", lambda: True)():
            pytest.skip("websockets reads and writes an SSLSocket in two threads, which Python doesn't protect")
        return websockets.sync.client
    if fastws.IMPLEMENTATION == "pure":
        pytest.skip("receive threads are in the compiled core only")
    return importlib.import_module("fastws.sync")


@pytest.fixture(params=["ws", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Plain and TLS in turn."""
    name: str = request.param
    return name


@pytest.fixture
def ours(scheme: str, request: pytest.FixtureRequest) -> dict[str, ssl.SSLContext]:
    """What the client takes for the scheme."""
    return {} if scheme == "ws" else {"ssl": _certificate(request).client_context()}


@pytest.fixture
def theirs(scheme: str, request: pytest.FixtureRequest) -> dict[str, ssl.SSLContext]:
    """What the server takes for it."""
    return {} if scheme == "ws" else {"ssl": _certificate(request).server_context()}


def _certificate(request: pytest.FixtureRequest) -> Certificate:
    made: Certificate = request.getfixturevalue("certificate")
    return made
