"""Fixtures of the receive thread's tests."""

from __future__ import annotations

from connection.conftest import certificate, link, side, tls

__all__ = ["certificate", "link", "side", "tls"]
