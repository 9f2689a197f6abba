"""The queue when policies look at messages: whole messages only, found by policy and key."""

from __future__ import annotations

from collections import OrderedDict

from ..overflow import Conflate, DropOldest, Resync
from .inbox import DataFrame, Inbox, Limit
from .policies import Class, Slot

__all__ = ["Backlog"]


class Backlog(Inbox):
    """An `Inbox` that knows the `Class` of each message.

    Args:
        max_queue: As for `Inbox`.
        max_queue_bytes: As for `Inbox`.
    """

    def __init__(self, max_queue: Limit, max_queue_bytes: int | None) -> None:
        super().__init__(max_queue, max_queue_bytes)
        self._classes: dict[int, Class] = {}
        # Places by policy, in their order.
        self._droppable: OrderedDict[int, None] = OrderedDict()  # DropOldest
        self._evictable: OrderedDict[int, None] = OrderedDict()  # DropOldest and Resync
        self._deltas: dict[Slot, set[int]] = {}  # Resync
        self._states: dict[Slot, int] = {}  # Conflate

    def add(self, message: DataFrame, kind: Class) -> None:
        """Put a message behind the others."""
        place = self.push(message)
        self._classes[place] = kind
        if isinstance(kind.policy, DropOldest):
            self._droppable[place] = None
        if isinstance(kind.policy, DropOldest | Resync):
            self._evictable[place] = None
        if isinstance(kind.policy, Resync) and kind.slot is not None:
            self._deltas.setdefault(kind.slot, set()).add(place)
        if isinstance(kind.policy, Conflate) and kind.slot is not None:
            self._states[kind.slot] = place

    def remove(self, place: int) -> DataFrame:
        """Take the message at a place out."""
        kind = self._classes.pop(place)
        self._droppable.pop(place, None)
        self._evictable.pop(place, None)
        if isinstance(kind.policy, Resync) and kind.slot is not None:
            self._deltas[kind.slot].remove(place)
            if not self._deltas[kind.slot]:
                del self._deltas[kind.slot]
        if isinstance(kind.policy, Conflate) and kind.slot is not None:
            del self._states[kind.slot]
        return super().remove(place)

    def state(self, slot: Slot) -> DataFrame | None:
        """The message of Conflate that waits in a slot; None if there is none."""
        place = self._states.get(slot)
        return None if place is None else self._frames[place]

    def has_room_to_grow(self, growth: int) -> bool:
        """Whether a message that waits may be ``growth`` bytes longer; the only one always may."""
        return growth <= 0 or len(self) == 1 or not self._exceeds(0, self.cost + growth)

    def replace_state(self, slot: Slot, message: DataFrame) -> None:
        """Put a message in the place of the one that waits in its slot."""
        place = self._states[slot]
        predecessor = self._frames[place]
        self.payload_bytes -= len(predecessor.payload)
        self.messages -= predecessor.fin
        self._set(place, message)

    def drop_state(self, slot: Slot) -> None:
        """Take the message out that waits in a slot."""
        self.remove(self._states[slot])

    def oldest_droppable(self) -> DataFrame | None:
        """The oldest message of DropOldest; None if there is none."""
        place = next(iter(self._droppable), None)
        return None if place is None else self._frames[place]

    def drop_oldest(self) -> Class:
        """Take the oldest message of DropOldest out; returns what it was."""
        place = next(iter(self._droppable))
        kind = self._classes[place]
        self.remove(place)
        return kind

    def oldest_evictable(self) -> Class | None:
        """What the oldest message of DropOldest or Resync is; None if there is none."""
        place = next(iter(self._evictable), None)
        return None if place is None else self._classes[place]

    def head_class(self) -> Class | None:
        """What the first message is; None if there is none."""
        place = next(iter(self._frames), None)
        return None if place is None else self._classes[place]

    def give_up(self, slot: Slot) -> int:
        """Take all messages of Resync in a slot out; returns how many there were."""
        places = list(self._deltas.get(slot, ()))
        for place in places:
            self.remove(place)
        return len(places)
