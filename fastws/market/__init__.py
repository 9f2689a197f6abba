"""Simulated and recorded exchange feeds, and a server that plays them."""

from .exchange import Published, simulate
from .feed import Feed
from .recordings import Entry, RecordingError, read_recording
from .tape import Tape

__all__ = ["Entry", "Feed", "Published", "RecordingError", "Tape", "read_recording", "simulate"]
