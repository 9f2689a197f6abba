"""One suite over both implementations of the data plane: test ids say which one broke."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
from typing import Any

import hypothesis
import pytest

# "ci" is reproducible and quick; "long" looks further each time: FASTWS_HYPOTHESIS=long python -m pytest tests/core
# Neither minds slowness: of a busy machine, of sanitizers, of Hypothesis, which makes tables at the first draw.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
patient = hypothesis.settings.get_profile("patient")
hypothesis.settings.register_profile("ci", patient, max_examples=100, derandomize=True, database=None)
hypothesis.settings.register_profile("long", patient, max_examples=20_000, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("FASTWS_HYPOTHESIS") or "ci")


@dataclasses.dataclass(frozen=True)
class Implementation:
    """The names that `fastws.core` offers, of one implementation.

    Attributes:
        name: "reference" or "compiled".
    """

    name: str
    Batch: Any
    rebuild_batch: Any
    FrameDecoder: Any
    FrameEncoder: Any
    apply_mask: Any
    Turn: Any
    MessageIterator: Any
    BlockingIterator: Any
    Sender: Any
    send: Any
    recv: Any

    def __str__(self) -> str:
        return self.name


HOMES = {
    "Batch": "_batch",
    "rebuild_batch": "_batch",
    "FrameDecoder": "_decoder",
    "FrameEncoder": "_encoder",
    "apply_mask": "_encoder",
    "Turn": "_iterator",
    "MessageIterator": "_iterator",
    "BlockingIterator": "_iterator",
    "Sender": "_sender",
    "send": "_sender",
    "recv": "_receiver",
}


def load(name: str) -> Implementation:
    """Import one implementation; skips where there is no compiled one to test."""
    if name == "reference":
        module = importlib.import_module("fastws.reference")
        return Implementation(name, **{attribute: getattr(module, attribute) for attribute in HOMES})
    if os.environ.get("FASTWS_PURE", "0") not in ("", "0"):
        pytest.skip("FASTWS_PURE is set: the compiled core isn't wanted")
    missing = [module for module in sorted(set(HOMES.values())) if not importlib.util.find_spec(f"fastws.{module}")]
    if missing:
        pytest.skip(f"fastws.{missing[0]} isn't built: python setup.py build_ext --inplace")
    return Implementation(
        name,
        **{
            attribute: getattr(importlib.import_module(f"fastws.{module}"), attribute)
            for attribute, module in HOMES.items()
        },
    )


@pytest.fixture(scope="session", params=["reference", "compiled"])
def impl(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    return load(request.param)


@pytest.fixture(scope="session")
def reference() -> Implementation:
    """The oracle."""
    return load("reference")


@pytest.fixture(scope="session")
def compiled() -> Implementation:
    """What is compared with it."""
    return load("compiled")
