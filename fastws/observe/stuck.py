"""What the watchdog reports: who is stuck, where, since when, what it means and what helps."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

__all__ = ["QueueState", "StuckReport", "Where", "where_task", "where_thread", "why_blocked", "why_stuck"]

_STACK_MAX = 50
"""Innermost frames that are shown."""
_BUSY = 0.2
"""Share of the time for which a thread that computes is on a processor, at least: others want it, too."""
_OTHERS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).parent.parent)}
)
"""Directories of code that isn't the user's."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue of a watched connection.

    Attributes:
        name: As given to `Watchdog.watch`.
        messages: Messages that wait.
        bytes: Their payload bytes.
        oldest_s: Age of the oldest of them in seconds.
        paused: Whether reading is paused as the queue is full.
        peer_gives_up_s: Seconds until a peer that pings may end the connection, at the earliest; None if pings are
            answered, or no limit is known. The limit is that given to `Watchdog.watch`, else our own ``ping_timeout``.
    """

    name: str
    messages: int
    bytes: int
    oldest_s: float
    paused: bool
    peer_gives_up_s: float | None

    def __str__(self) -> str:
        text = f"{self.name}: {self.messages:,} messages ({self.bytes:,} bytes) wait"
        if self.messages:
            text += f", the oldest for {self.oldest_s:.1f} s"
        if self.paused:
            text += ", reading is paused"
        if self.peer_gives_up_s is not None:
            text += f", the peer may give up in {self.peer_gives_up_s:.1f} s as no ping is answered"
        return text


@dataclass(frozen=True, slots=True)
class StuckReport:
    """Somebody is stuck, or isn't any more; ``str()`` gives it in plain sentences.

    Attributes:
        what: "loop": the event loop is blocked. "consumer": a task takes no messages although some wait.
        phase: "stuck" while it lasts, "over" afterwards.
        since: When it began, as ``time.time()`` gives it.
        stuck_s: Seconds that it has lasted so far, or lasted.
        file: Of the innermost code that belongs to neither the standard library nor an installed package, if there
            is any; None if the place isn't known.
        line: Line in ``file``.
        function: Qualified name of the function there.
        stack: The whole stack, innermost last, as in a traceback.
        task: Name of the task.
        queues: Of the connection, or of all watched ones if the loop is blocked.
        cause: Why, as far as can be told.
        cure: What helps.
    """

    what: Literal["loop", "consumer"]
    phase: Literal["stuck", "over"]
    since: float
    stuck_s: float
    file: str | None
    line: int | None
    function: str | None
    stack: str
    task: str | None
    queues: tuple[QueueState, ...]
    cause: str
    cure: str

    def __str__(self) -> str:
        who = "event loop" if self.what == "loop" else "consumer"
        if self.phase == "over":
            text = f"{who} was {'blocked' if self.what == 'loop' else 'stuck'} for {self.stuck_s:.2f} s"
        else:
            text = f"{who} {'blocked' if self.what == 'loop' else 'stuck'} for {self.stuck_s:.2f} s so far"
        if self.file is not None:
            text += f" in {self.function}(), {self.file}:{self.line}"
        if self.task is not None:
            text += f" (task {self.task!r})"
        lines = [text, *(str(queue) for queue in self.queues)]
        if self.phase == "stuck":
            lines += [f"cause: {self.cause}", f"cure: {self.cure}"]
            if self.stack:
                lines += ["stack, innermost last:", self.stack.rstrip()]
        return "\n  ".join(lines)


@dataclass(frozen=True, slots=True)
class Where:
    """A place in running or suspended code; ``awaited`` is the innermost coroutine."""

    file: str | None = None
    line: int | None = None
    function: str | None = None
    stack: str = ""
    task: str | None = None
    awaited: str | None = None


def where_thread(thread_id: int, loop: asyncio.AbstractEventLoop) -> Where:
    """Where a thread is that runs ``loop``."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return Where()
    frames = list(traceback.walk_stack(frame))[::-1]
    del frame
    try:
        task = asyncio.current_task(loop)
    except RuntimeError:
        task = None
    return _where(frames, None if task is None else task.get_name())


def where_task(task: asyncio.Task[Any]) -> Where:
    """Where a task is suspended. ``Task.get_stack()`` would give the outermost frame only."""
    frames: list[tuple[FrameType, int]] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(frames) < 1000:
        for frame_name, next_name in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if hasattr(awaited, frame_name):
                # A compiled coroutine has no frame, but may wait for one that has.
                frame = getattr(awaited, frame_name)
                if frame is not None:
                    frames.append((frame, frame.f_lineno))
                awaited = getattr(awaited, next_name)
                break
        else:
            break
    return _where(frames, task.get_name())


def _where(frames: list[tuple[FrameType, int]], task: str | None) -> Where:
    if not frames:
        return Where(task=task)
    frame, line = _place(frames)
    stack = _formatted(frames[-_STACK_MAX:])
    code, innermost = frame.f_code, frames[-1][0].f_code
    return Where(code.co_filename, line, code.co_qualname, stack, task, innermost.co_qualname)


def _place(frames: list[tuple[FrameType, int]]) -> tuple[FrameType, int]:
    for frame, line in reversed(frames):
        file = frame.f_code.co_filename
        if not file.startswith(_OTHERS) and not file.startswith("<frozen"):
            return frame, line
    return frames[-1]


def _formatted(frames: Iterable[tuple[FrameType, int]]) -> str:
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def why_blocked(where: Where, busy: float | None) -> tuple[str, str]:
    """(cause, cure) of a blocked loop; ``busy`` is the share of the time in which its thread was on a processor."""
    if not where.stack:
        return (
            "C code held the GIL all the time, so that no other thread could look where",
            'run that code in a process: fastws.workers(..., executor="process")',
        )
    if busy is not None and busy < _BUSY:
        return (
            f"{where.function}() waits in a blocking call, and the loop with it",
            "use an asynchronous library for it, or run it in a thread: asyncio.to_thread(), "
            'fastws.workers(..., executor="thread")',
        )
    return (
        f"{where.function}() computes without giving the loop its turn",
        'run it in processes: fastws.workers(..., executor="process"), or let it await in between',
    )


def why_stuck(where: Where) -> tuple[str, str]:
    """(cause, cure) of a consumer that takes no messages."""
    if where.task is None:
        return (
            "no task receives from the connection, or the one that did has ended",
            "receive until the connection ends, or close it",
        )
    return (
        f"{where.function}() awaits {where.awaited}() and takes no message meanwhile",
        "set a timeout there, hand messages to fastws.workers(), or choose an overflow policy (overflow=) that sheds "
        "what is stale",
    )
