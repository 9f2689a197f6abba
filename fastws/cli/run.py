"""``fastws run``: run a program, unchanged, with fastws in the place of websockets."""

from __future__ import annotations

import argparse
import os
import pkgutil
import runpy
import sys
import types
from importlib.machinery import SourceFileLoader
from types import TracebackType
from typing import Any

from .errors import CommandError
from .patch import replace_websockets

__all__ = ["add_parser", "main"]

DESCRIPTION = """\
Run a Python program, unchanged, as `python app.py` or `python -m module` would, with the asyncio client and server of
websockets replaced by those of fastws: connect, serve, unix_connect, unix_serve, route, unix_route, broadcast and the
classes of connections, under `websockets` and `websockets.asyncio`; and, with the compiled core, the clients of
`websockets.sync.client`.
"""

EPILOG = """\
Not replaced: the server of websockets.sync, websockets.trio and websockets.legacy; and programs that this one starts
(subprocess, multiprocessing with "spawn" or "forkserver"), unless they are started with `fastws run`, too. Forked
processes inherit the replacement.
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a program, unchanged, with fastws in the place of websockets",
        usage="fastws run [-h] (app.py | -m module) [argument ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module, and its arguments")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a file, folder or zip file, and its arguments")
    parser.set_defaults(main=main, parser=parser)


def main(args: argparse.Namespace) -> int:
    """Run the program; returns the exit status if it ends by itself.

    Raises:
        BaseException: What the program raises; its traceback, when shown, begins with the program.
    """
    command: list[str] = args.module or args.script
    if not command:
        args.parser.error("a file or -m MODULE is required")
    replace_websockets()
    sys.argv[:] = command
    try:
        if args.module:
            _set_path0(os.getcwd())
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        else:
            _run_path(command[0])
    except Exception as exc:
        if _after_us(exc.__traceback__) is None:
            # It didn't come to running anything. Statuses are those of Python.
            if isinstance(exc, OSError):
                raise CommandError(f"can't open file {command[0]!r}: {exc.strerror}") from None
            if isinstance(exc, ImportError):
                raise CommandError(str(exc), status=1) from None
        _show_without_us()
        raise
    except KeyboardInterrupt:
        _show_without_us()
        raise
    return 0


def _run_path(path: str) -> None:
    location = os.path.abspath(path)
    if pkgutil.get_importer(location) is not None or location.endswith(".pyc"):
        # A folder or zip file: runpy puts it in front by itself.
        _set_path0(None)
        runpy.run_path(location, run_name="__main__")
        return
    with open(location, "rb") as file:
        source = file.read()
    _set_path0(os.path.dirname(os.path.realpath(location)))
    # runpy would change sys.argv[0] where __file__ is absolute, and take __main__ away from threads and atexit.
    module = types.ModuleType("__main__")
    module.__file__ = location
    module.__loader__ = SourceFileLoader("__main__", location)
    vars(module)["__cached__"] = None
    sys.modules["__main__"] = module
    exec(compile(source, location, "exec", dont_inherit=True), vars(module))


def _set_path0(entry: str | None) -> None:
    """Replace what Python has put in front of `sys.path` for us by what it would put there for the program."""
    if not sys.flags.safe_path:
        sys.path[:1] = [] if entry is None else [entry]


def _show_without_us() -> None:
    """Let the traceback that Python is about to show begin with the program, whichever hook shows it."""
    hook = sys.excepthook

    def show(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
        traceback = _after_us(traceback)
        hook(kind, exc.with_traceback(traceback), traceback)

    sys.excepthook = show


def _after_us(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the program's; None if there is none."""
    while traceback is not None and traceback.tb_frame.f_code is not main.__code__:
        traceback = traceback.tb_next
    traceback = traceback and traceback.tb_next
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        traceback = traceback.tb_next
    return traceback
