"""Fixtures of the receive thread's tests."""

from __future__ import annotations

import pytest
from connection.conftest import ALL, certificate, link, side, tls

__all__ = ["certificate", "link", "side", "tls"]

CROSSWISE = {("plain", "asyncio"), ("tls", "uvloop")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long, for the plain and the encrypted case and for both loops, is tried crosswise only."""
    kept, dropped = [], []
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        how = next((parameters[name] for name in ("link", "link_of_pinger") if name in parameters), None)
        off = item.get_closest_marker("crosswise") and (how, parameters.get("loop_name")) not in CROSSWISE
        (dropped if off and not ALL else kept).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept
