"""Choices made from bytes, so that whoever mutates the bytes mutates the choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Hands out the bytes of an input as choices, in their order; zeros once they are used up.

    Attributes:
        left: Bytes that weren't used yet.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit - 1``, of as many bytes as that takes."""
        value = 0
        for _ in range((max(1, (limit - 1).bit_length()) + 7) // 8):
            value = value << 8 | self.byte()
        return value % limit

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def one_in(self, count: int) -> bool:
        """True for one value in ``count``; False once the bytes are used up."""
        return self.below(count) == count - 1

    def bytes(self, most: int) -> bytes:
        """Up to ``most`` bytes as they are."""
        size = self.below(most + 1)
        start, self._at = self._at, self._at + size
        return self._data[start : start + size]
