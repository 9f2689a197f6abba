"""Which policy and which key a message has."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple, TypeAlias

from ..overflow import Block, Conflate, Disconnect, DropNewest, DropOldest, Policy, Resync, Route, SimplePolicy
from .keys import KeySpace, KeySpaces

__all__ = ["Class", "Policies", "Slot"]

Slot: TypeAlias = tuple[KeySpace, str]
"""Messages of the same slot conflate with each other, or are given up with each other."""

_SIMPLE = (Block, DropOldest, DropNewest, Disconnect)


class Class(NamedTuple):
    """What is known of a message when it is admitted.

    Attributes:
        policy: Conflate and Resync only if it has their key; else it is their ``otherwise``.
        slot: Where it belongs to by its key; None if it has none.
    """

    policy: SimplePolicy | Conflate | Resync
    slot: Slot | None

    @property
    def key(self) -> str | None:
        """The key that its loss is attributed to."""
        return None if self.slot is None else self.slot[1]


class Policies:
    """Classifies messages by their keys.

    Args:
        policy: As configured.
        spaces: Where the keys' spaces are, or come.

    Raises:
        TypeError: If something isn't a policy, or not one that may stand there.
        ValueError: If a key is missing or wrong.
    """

    def __init__(self, policy: Policy, spaces: KeySpaces) -> None:
        self._policy = policy
        self._spaces = spaces
        if isinstance(policy, Route):
            self._check_route(policy)
        else:
            self._check_routed(policy, None, "overflow")

    def _check_route(self, route: Route) -> None:
        self._route_space = self._spaces.of(route.key)
        for pattern, policy in route.rules.items():
            if not isinstance(pattern, str):
                raise TypeError(f"pattern is {pattern!r}, must be a str")
            self._check_routed(policy, self._route_space, f"policy of {pattern!r}")
        _check_simple(route.default, "default")

    def _check_routed(self, policy: SimplePolicy | Conflate | Resync, space: KeySpace | None, where: str) -> None:
        if not isinstance(policy, Conflate | Resync):
            _check_simple(policy, where)
            return
        _check_simple(policy.otherwise, "otherwise")
        if policy.key is not None:
            self._spaces.of(policy.key)
        elif space is None:
            raise ValueError(f"{type(policy).__name__} needs a key outside of a Route")

    def classify(self, keys: dict[KeySpace, str | None]) -> Class:
        """Say what policy a message with these keys has."""
        if not isinstance(self._policy, Route):
            return self._by_own_key(self._policy, keys, None)
        key = keys[self._route_space]
        if key is None:
            return Class(self._policy.default, None)
        slot = (self._route_space, key)
        for pattern, policy in self._policy.rules.items():
            if key == pattern or fnmatchcase(key, pattern):
                return self._by_own_key(policy, keys, slot)
        return Class(self._policy.default, slot)

    def _by_own_key(
        self, policy: SimplePolicy | Conflate | Resync, keys: dict[KeySpace, str | None], slot: Slot | None
    ) -> Class:
        if not isinstance(policy, Conflate | Resync):
            return Class(policy, slot)
        if policy.key is not None:
            space = self._spaces.of(policy.key)
            key = keys[space]
            slot = None if key is None else (space, key)
        return Class(policy.otherwise if slot is None else policy, slot)


def _check_simple(policy: SimplePolicy, where: str) -> None:
    if not isinstance(policy, _SIMPLE):
        raise TypeError(f"{where} is {policy!r}, must be a policy that may stand there")
