"""What the consumer won't get, and what the control plane must be told: counted, attributed, never silent."""

from __future__ import annotations

import dataclasses
import enum

from ..overflow import Lost
from ..wire import NOTICES_MAX, Notice

__all__ = ["Loss", "Losses", "Notices"]


class Loss(enum.Enum):
    """A way in which messages are lost; the values are the fields of `Lost`."""

    DROPPED_OLDEST = "dropped_oldest"
    DROPPED_NEWEST = "dropped_newest"
    EXPIRED = "expired"
    CONFLATED = "conflated"
    RESYNC = "resync"
    DISCARDED = "discarded"


class Losses:
    """Counts lost messages, in sum and by key."""

    def __init__(self) -> None:
        self._counts = {loss.value: 0 for loss in Loss}
        self._reported = Lost()
        self._dropped: dict[str, int] = {}
        self._conflated: dict[str, int] = {}

    def add(self, loss: Loss, key: str | None = None, messages: int = 1) -> None:
        """Count ``messages`` as lost, all of the same key. Discarded ones say nothing about a key."""
        self._counts[loss.value] += messages
        if key is not None and loss is not Loss.DISCARDED:
            by_key = self._conflated if loss is Loss.CONFLATED else self._dropped
            by_key[key] = by_key.get(key, 0) + messages

    @property
    def total(self) -> Lost:
        """All since the beginning."""
        return Lost(**self._counts)

    def report(self) -> Lost:
        """What was lost since the last report."""
        before, self._reported = dataclasses.asdict(self._reported), self.total
        return Lost(**{name: count - before[name] for name, count in self._counts.items()})

    def by_key(self, limit: int) -> list[tuple[str, int, int]]:
        """(key, dropped, conflated) of the ``limit`` keys that lost most."""
        keys = self._dropped.keys() | self._conflated.keys()
        rows = [(key, self._dropped.get(key, 0), self._conflated.get(key, 0)) for key in keys]
        rows.sort(key=lambda row: (-row[1] - row[2], row[0]))
        return rows[: max(0, limit)]


class Notices:
    """What happened since somebody looked; bounded, as nobody may look for long."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str | None, int, int]] = []
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, notice: Notice, text: str | None, first: int = 0, second: int = 0) -> None:
        """Add one; beyond the bound it is only counted, but for DISCONNECT, which comes once and must be heard."""
        if len(self._waiting) >= NOTICES_MAX and notice is not Notice.DISCONNECT:
            self._lost += 1
        else:
            self._waiting.append((int(notice), text, first, second))

    def take(self) -> list[tuple[int, str | None, int, int]]:
        """Take all."""
        taken, self._waiting = self._waiting, []
        if self._lost:
            taken.append((int(Notice.NOTICES_LOST), None, self._lost, 0))
            self._lost = 0
        return taken
