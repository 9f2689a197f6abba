"""Fixtures of the receive thread's tests."""

from __future__ import annotations

from connection.conftest import certificate, side, tls

__all__ = ["certificate", "side", "tls"]
