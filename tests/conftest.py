"""What holds for all tests."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests are there to stay: no collection of garbage, of which there are many, needs to go through them."""
    gc.collect()
    gc.freeze()
