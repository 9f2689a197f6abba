from collections.abc import Sequence
from typing import final

from .overflow import ExchangeTime, Inspect, Key, Policy, Reply

@final
class Gate:
    """What the decoder asks about each complete message; see the decoder for the arguments. Not for users."""

    def __init__(
        self,
        overflow: Policy | None,
        max_queue_age: float | None,
        inspect: Inspect | None,
        exchange_time: ExchangeTime | None,
        replies: Sequence[Reply],
        track: Key | None,
    ) -> None: ...
    def notices(self) -> list[tuple[int, str | None, int, int]]:
        """Take what the control plane is to know."""
    def given_up(self) -> list[str]: ...
    def resynced(self, key: str) -> None:
        """Messages of a key that was given up are taken again."""
    def lost_by_key(self, limit: int) -> list[tuple[str, int, int]]:
        """Keys that lost most: (key, dropped, conflated), most first."""
    def last_seen(self) -> dict[str, int]:
        """When the last message of each key was received."""
