"""The clocks, and the cores they run on."""

from __future__ import annotations

import os
import resource
import sys
import time

__all__ = ["Stopwatch", "cores", "pin", "rss_bytes"]


class Stopwatch:
    """CPU (user and system) of this process and wall time, from `start` to `stop`."""

    def __init__(self) -> None:
        self.cpu_ns = self.wall_ns = 0.0

    def start(self) -> None:
        self.wall_ns = -time.perf_counter_ns()
        self.cpu_ns = -_cpu_ns()

    def stop(self) -> None:
        self.cpu_ns += _cpu_ns()
        self.wall_ns += time.perf_counter_ns()


def _cpu_ns() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e9


def rss_bytes() -> int:
    """Resident memory of this process now; where the system doesn't tell, the most it ever was."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def cores() -> tuple[int | None, int | None]:
    """The core for the contender and the one for the source; None where pinning isn't possible."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def pin(core: int | None) -> None:
    """Keep this process on one core, if there is one."""
    if core is not None:
        os.sched_setaffinity(0, {core})
