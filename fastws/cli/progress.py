"""What a command is doing, on standard error: one line rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """Shows steps, and figures that change within a step.

    Args:
        stream: Where; on a terminal a line is rewritten in place.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.rewrites = stream.isatty()
        self._step = ""

    def step(self, text: str) -> None:
        """A step begins."""
        self._step = text
        self._show(text)
        if not self.rewrites:
            self.stream.write("\n")
            self.stream.flush()

    def figure(self, text: str) -> None:
        """How far the step is; on a terminal only."""
        if self.rewrites:
            self._show(f"{self._step}: {text}")

    def clear(self) -> None:
        """Leave the line to others."""
        if self.rewrites:
            self._show("")

    def _show(self, text: str) -> None:
        if self.rewrites:
            # To the first column, and erase to the end of the line; a text that wraps couldn't be rewritten.
            text = f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}"
        self.stream.write(text)
        self.stream.flush()
