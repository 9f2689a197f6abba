"""How commands fail."""

from __future__ import annotations

__all__ = ["CommandError"]


class CommandError(Exception):
    """A command can't do what it was asked to; shown in one line, without a traceback.

    Args:
        message: What is wrong.
        status: Exit status: 2 if the user can mend it, 1 if something went wrong.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
