"""Reader of recorded feeds: one line for each message, connection or request.

A line is one of

- ``<unix seconds>: <message>``: received; the message is exactly what came, on one line
- ``<url> <- <unix seconds>: <message>``: sent by the client
- ``<url> <-> <unix seconds>``: connected

or empty. Files are read line by line, so that their size doesn't matter.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Literal

__all__ = ["MAX_LINE_BYTES", "Entry", "RecordingError", "read_recording"]

MAX_LINE_BYTES = 64 * 2**20
"""Longest line that is read into memory; the largest snapshots of exchanges have a few MiB."""

_SHOWN_BYTES = 60
"""How much of a wrong line an error shows."""

_TIME = rb"([0-9]{1,11})(?:\.([0-9]{1,9})[0-9]*)?"
_RECEIVED = re.compile(_TIME + rb": (.*)", re.DOTALL)
_SENT = re.compile(rb"(\S+) <- " + _TIME + rb": (.*)", re.DOTALL)
_CONNECTED = re.compile(rb"(\S+) <-> " + _TIME)


class RecordingError(ValueError):
    """A recording breaks its format.

    Attributes:
        path: The file.
        line: Number of the line, from 1; None if it is the whole file that is wrong.
        reason: What is wrong.
    """

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        super().__init__(path, line, reason)
        self.path = path
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A line of a recording.

    Attributes:
        kind: What happened.
        time_ns: When, in nanoseconds since the epoch.
        message: What was received or sent; empty for ``"connected"``.
        url: The other end; empty for ``"received"``, where it isn't recorded.
        line: Number of the line, from 1.
    """

    kind: Literal["received", "sent", "connected"]
    time_ns: int
    message: str
    url: str
    line: int


def read_recording(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Read a recording, line by line.

    Args:
        path: The file.

    Yields:
        Each entry, in the order of the file.

    Raises:
        OSError: If the file can't be read.
        RecordingError: If a line isn't of the format, isn't UTF-8, or is longer than `MAX_LINE_BYTES`.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise RecordingError(name, number, f"line is longer than {MAX_LINE_BYTES} bytes")
            if line.isspace():
                continue
            try:
                yield _parse(line.removesuffix(b"\n"), number)
            except UnicodeDecodeError as exc:
                raise RecordingError(name, number, f"not UTF-8: {exc.reason} at byte {exc.start + 1}") from None
            except ValueError as exc:
                raise RecordingError(name, number, str(exc)) from None


def _parse(line: bytes, number: int) -> Entry:
    if match := _RECEIVED.fullmatch(line):
        seconds, fraction, message = match.groups()
        return Entry("received", _nanoseconds(seconds, fraction), _text(line, message), "", number)
    if match := _SENT.fullmatch(line):
        url, seconds, fraction, message = match.groups()
        return Entry("sent", _nanoseconds(seconds, fraction), _text(line, message), url.decode(), number)
    if match := _CONNECTED.fullmatch(line.rstrip()):
        url, seconds, fraction = match.groups()
        return Entry("connected", _nanoseconds(seconds, fraction), "", url.decode(), number)
    shown = repr(line[:_SHOWN_BYTES])[1:] + ("..." if len(line) > _SHOWN_BYTES else "")
    raise ValueError(f"neither '<unix seconds>: <message>' nor '<url> <- ...' nor '<url> <-> ...': {shown}")


def _nanoseconds(seconds: bytes, fraction: bytes | None) -> int:
    # A float of today's seconds resolves only 238 ns.
    return int(seconds) * 1_000_000_000 + int((fraction or b"").ljust(9, b"0"))


def _text(line: bytes, message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError as exc:
        # Count from the beginning of the line, where one looks for it.
        exc.start += len(line) - len(message)
        raise
