"""The command ``fastws``."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from typing import NoReturn

import fastws

from . import demo, run
from .errors import CommandError

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it: 128 + SIGINT."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line; the usage is a --help away."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastws",
        description="The message loop for WebSocket feeds that are faster than your code.",
        epilog="`fastws COMMAND --help` says more about each.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"fastws {fastws.__version__} ({fastws.IMPLEMENTATION}), "
        f"websockets {importlib.metadata.version('websockets')}, Python {platform.python_version()}",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo.add_parser(subparsers)
    run.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None is those of the process.

    Returns:
        The exit status: 0, 1 if something went wrong, 2 for what the user can mend, 130 after Ctrl-C.

    Raises:
        BaseException: What a program raises that is run by ``fastws run``.
    """
    runs_program = False
    try:
        args = _parser().parse_args(argv)
        runs_program = args.main is run.main
        status: int = args.main(args)
        sys.stdout.flush()
    except CommandError as exc:
        print(f"fastws: {exc}", file=sys.stderr)
        return exc.status
    except (KeyboardInterrupt, BrokenPipeError) as exc:
        if runs_program:
            # The program's own: it ends as it would without us.
            raise
        if isinstance(exc, KeyboardInterrupt):
            return INTERRUPTED
        # Who read our output has left; nothing is to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
