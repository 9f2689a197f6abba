"""Messages that carry a number, and whoever checks that none is lost silently, comes twice or out of order."""

from __future__ import annotations

KEYS = 5
LARGE = 97
"""Each message of so many is large."""


BEAT = '{"k":"beat"}'
"""A heartbeat, that comes between them."""


class Broken(AssertionError):
    """A promise wasn't kept."""


def payload_of(number: int) -> str:
    """What message ``number`` says; its number can be read back."""
    size = 20_000 if number % LARGE == LARGE - 1 else number * 7 % 300
    return f'{{"k":"k{number % KEYS}","n":{number},"x":"{"x" * size}"}}'


def number_of(message: str | bytes) -> int:
    """The number of a message that is as it was sent."""
    text = message if isinstance(message, str) else message.decode()
    number = int(text.split(":", 3)[2].split(",")[0])
    if text != payload_of(number):
        raise Broken(f"message {number} is {text[:200]!r}")
    return number


class Sequence:
    """What one side has received.

    Args:
        lossy: Messages may be missing.
        conflates: Those of a key take the place of their predecessors.

    Attributes:
        taken: How many, heartbeats included.
        beats: How many heartbeats.
        last: The last number, of each key where messages take the places of others, else of None.
    """

    def __init__(self, *, lossy: bool = False, conflates: bool = False) -> None:
        self.lossy = lossy
        self.conflates = conflates
        self.taken = self.beats = 0
        self.last: dict[int | None, int] = {}

    def note(self, message: str | bytes) -> None:
        """Check the next message."""
        if message in (BEAT, BEAT.encode()):
            self.beats += 1
            self.taken += 1
            return
        number = number_of(message)
        key = number % KEYS if self.conflates else None
        last = self.last.get(key, -1)
        if number <= last or (number != last + 1 and not self.lossy):
            raise Broken(f"message {number} after message {last}")
        self.last[key] = number
        self.taken += 1
