"""What holds for all tests."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests are there to stay: the many collections of garbage needn't go through them."""
    gc.collect()
    gc.freeze()
