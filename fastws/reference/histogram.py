"""How long things take: buckets of an eighth of a power of two, so that a quantile is right within 12.5 %."""

from __future__ import annotations

from collections import Counter

__all__ = ["Histogram"]


class Histogram:
    """Counts values of 0 and more, with weights."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()  # By the largest value of the bucket.
        self._largest = 0

    def add(self, value: int, weight: int = 1) -> None:
        """Count ``weight`` times ``value``; a negative one counts as 0."""
        value = max(value, 0)
        unit = max(value.bit_length() - 4, 0)
        self._counts[(((value >> unit) + 1) << unit) - 1] += weight
        self._largest = max(self._largest, value)

    def quantile(self, quantile: float) -> int:
        """The largest value of the bucket with the value of this rank; 0 if there is none."""
        total = self._counts.total()
        rank = int(quantile * total)
        seen = 0
        for bound in sorted(self._counts):
            seen += self._counts[bound]
            if seen > rank or seen == total:
                return min(bound, self._largest)
        return 0

    def quantiles(self) -> tuple[int, int, int, int, int]:
        """(count, median, p99, p99.9, largest)."""
        return self._counts.total(), self.quantile(0.5), self.quantile(0.99), self.quantile(0.999), self._largest
