"""Fixtures of the receive thread's tests."""

from __future__ import annotations

from connection.conftest import side

__all__ = ["side"]
