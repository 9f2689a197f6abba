"""Let one call after the other of fastws's native code fail, and see what comes of it.

Usage: python -m tests.native.faults [--steps NAME ...] [--scenarios NAME ...] [--faults NAME ...] [--most N] [--only N]

A library of ours (faults.c), loaded ahead of all others, makes the N-th call of one kind by fastws's own modules fail:
memory, or a system call. For N = 1, 2, 3, ... a connection to a peer in another process is tried in a process of its
own. Either all messages arrive, exactly, or there is a clear exception, and then the accounts add up; afterwards a
second connection must do as ever, and nothing is left behind: no memory for messages, descriptor or thread. A crash or
a hang is a fault of fastws, and so is a message that is lost without a word.

Before, the steps of faults_steps.py are tried: decoders and encoders without a socket, where allocations of Python fail
as well. If only --steps or only --scenarios is given, the others are left out.

Needs Linux with glibc and a C compiler. The exit status is 0 if every promise was kept.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import faulthandler
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SITES = (
    "memory",
    "recv",
    "send",
    "read",
    "write",
    "epoll_wait",
    "epoll_ctl",
    "epoll_create",
    "eventfd",
    "thread",
    "entropy",
    "shutdown",
)
"""What can fail; the same order as in faults.c."""
OURS, RUNTIME, LIBSSL = 1, 2, 4
"""Classes of callers: fastws's modules; what works for them, the C++ library and zlib; libssl and libcrypto."""
NEVER, EVER = 1 << 60, 1 << 60
LIMIT_S = 45.0
"""After which a process that tries one fault counts as hanging."""
STEPS_LIMIT_S = 300.0
SHIM_ENV = "FASTWS_FAULTS_SHIM"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is to fail.

    Attributes:
        site: One of SITES.
        action: errno; 0: one byte is read or written only.
        times: Calls in a row that fail, from the N-th on.
        callers: Whose.
        every: Whether N is to take each value; else only 1: it fails from the beginning.
    """

    site: str
    action: int
    times: int = 1
    callers: int = OURS
    every: bool = True


FAULTS = {
    "memory": Fault("memory", errno.ENOMEM, callers=OURS | RUNTIME),
    "memory-20": Fault("memory", errno.ENOMEM, times=20, callers=OURS | RUNTIME),
    "memory-libssl": Fault("memory", errno.ENOMEM, callers=LIBSSL),
    "recv-short": Fault("recv", 0, times=EVER, every=False),
    "recv-eintr": Fault("recv", errno.EINTR),
    "recv-eagain": Fault("recv", errno.EAGAIN, times=30),
    "recv-reset": Fault("recv", errno.ECONNRESET),
    "recv-enobufs": Fault("recv", errno.ENOBUFS),
    "send-short": Fault("send", 0, times=EVER, every=False),
    "send-short-once": Fault("send", 0),
    "send-eintr": Fault("send", errno.EINTR),
    "send-eagain": Fault("send", errno.EAGAIN, times=5),
    "send-epipe": Fault("send", errno.EPIPE),
    "send-enobufs": Fault("send", errno.ENOBUFS),
    "read-short": Fault("read", 0, times=EVER, callers=LIBSSL, every=False),
    "read-eintr": Fault("read", errno.EINTR, callers=LIBSSL),
    "read-reset": Fault("read", errno.ECONNRESET, callers=LIBSSL),
    "write-short": Fault("write", 0, times=EVER, callers=LIBSSL, every=False),
    "write-eintr": Fault("write", errno.EINTR, callers=LIBSSL),
    "write-eagain": Fault("write", errno.EAGAIN, times=3, callers=LIBSSL),
    "write-epipe": Fault("write", errno.EPIPE, callers=LIBSSL),
    "write-enobufs": Fault("write", errno.ENOBUFS, callers=LIBSSL),
    "epoll_wait-eintr": Fault("epoll_wait", errno.EINTR),
    "epoll_ctl-enomem": Fault("epoll_ctl", errno.ENOMEM),
    "epoll_ctl-enospc": Fault("epoll_ctl", errno.ENOSPC),
    "epoll_create-emfile": Fault("epoll_create", errno.EMFILE),
    "eventfd-emfile": Fault("eventfd", errno.EMFILE),
    "thread-eagain": Fault("thread", errno.EAGAIN),
    "entropy-eio": Fault("entropy", errno.EIO),
    "shutdown-enotconn": Fault("shutdown", errno.ENOTCONN),
}


class Shim:
    """The library that is loaded ahead of all others."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[SHIM_ENV])
        self._library.faults_range.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        self._library.faults_arm.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
        self._library.faults_calls.restype = self._library.faults_fired.restype = ctypes.c_long

    def find_callers(self) -> None:
        """Which code is whose, once all of it is loaded."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            place, rights, *_, path = line.split(maxsplit=5) if line.count(" ") > 4 else (line, "", "")
            if "x" not in rights:
                continue
            name = Path(path.strip())
            if name.parent == ROOT / "fastws":
                callers = OURS
            elif re.match(r"lib(stdc\+\+|z)[.-]", name.name):
                callers = RUNTIME
            elif re.match(r"lib(ssl|crypto)[.-]", name.name):
                callers = LIBSSL
            else:
                continue
            begin, end = (int(number, 16) for number in place.split("-"))
            self._library.faults_range(begin, end, callers)

    def arm(self, fault: Fault, first: int, times: int | None = None) -> None:
        many = fault.times if times is None else times
        self._library.faults_arm(SITES.index(fault.site), fault.callers, first, many, fault.action)

    def disarm(self, fault: Fault) -> None:
        self._library.faults_disarm(SITES.index(fault.site))

    def calls(self, fault: Fault) -> int:
        return int(self._library.faults_calls(SITES.index(fault.site)))

    def fired(self, fault: Fault) -> int:
        return int(self._library.faults_fired(SITES.index(fault.site)))


class Trial:
    """Tries faults, each in a forked process."""

    def __init__(self, shim: Shim, peer: Any, told: IO[str]) -> None:
        self._shim, self._peer, self._told = shim, peer, told
        self._ids = itertools.count(1)
        self._heard: dict[int, dict[str, Any]] = {}
        self._rest = ""

    def run(self, name: str, fault: Fault, first: int) -> dict[str, Any]:
        """What came of it: ``wrong`` is None, or says what promise wasn't kept."""
        ids = next(self._ids), next(self._ids)
        reads, writes = os.pipe()
        with tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                os.close(reads)
                os.dup2(errors.fileno(), 2)
                self._in_child(name, fault, first, ids, writes)
            os.close(writes)
            output, late = b"", time.monotonic() + LIMIT_S
            while True:
                ready, _, _ = select.select([reads], [], [], max(0.0, late - time.monotonic()))
                if not ready:
                    os.kill(child, 9)
                    break
                if not (more := os.read(reads, 65536)):
                    break
                output += more
            os.close(reads)
            _, status = os.waitpid(child, 0)
            errors.seek(0)
            text = errors.read()
        code = os.waitstatus_to_exitcode(status)
        if code:
            how = "it hangs" if code == -9 else f"the process ended with {code}"
            return {"wrong": f"{how}: {text[-3000:]}", "calls": 0, "fired": 1, "raised": []}
        result: dict[str, Any] = json.loads(output)
        result["errors"] = text
        if result["wrong"] is None:
            result["wrong"] = self._judge(ids, opened=result["opened"])
        return result

    def _judge(self, ids: tuple[int, int], *, opened: bool) -> str | None:
        """What the peer says of both connections."""
        wanted = {ids[1]} | ({ids[0]} if opened else set())
        late = time.monotonic() + 10.0
        while not wanted <= set(self._heard):
            ready, _, _ = select.select([self._told], [], [], max(0.0, late - time.monotonic()))
            if not ready:
                return f"the peer knows nothing of connections {sorted(wanted - set(self._heard))}"
            self._rest += os.read(self._told.fileno(), 65536).decode()
            *lines, self._rest = self._rest.split("\n")
            for line in lines:
                told = json.loads(line)
                self._heard[told["id"]] = told
        for told in (self._heard[number] for number in wanted):
            if told["wrong"] is not None:
                return f"the peer: {told}"
        return None

    def _in_child(self, name: str, fault: Fault, first: int, ids: tuple[int, int], pipe: int) -> None:
        from . import faults_play as playing

        code = 1
        try:
            faulthandler.enable()
            faulthandler.dump_traceback_later(LIMIT_S - 5.0)
            scenario = playing.SCENARIOS[name]
            result: dict[str, Any] = {"wrong": None, "raised": [], "opened": False}
            open_before = playing.descriptors()
            self._shim.arm(fault, first)
            try:
                result |= playing.play(scenario, self._peer, playing.Plan(ids[0], asks=scenario.asks))
            except playing.Broken as exc:
                result["wrong"] = str(exc)
            except Exception:
                result["wrong"] = traceback.format_exc()
            result |= {"calls": self._shim.calls(fault), "fired": self._shim.fired(fault)}
            self._shim.disarm(fault)
            if result["wrong"] is None:
                try:
                    again = playing.play(scenario, self._peer, playing.Plan(ids[1], asks=scenario.asks))
                    if again["raised"] or again["no_memory"]:
                        result["wrong"] = f"the next connection: {again}"
                    else:
                        playing.settle(open_before)
                except Exception as exc:
                    result["wrong"] = f"afterwards: {exc!r}"
            os.write(pipe, json.dumps(result).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


@contextlib.contextmanager
def started_peer(cert: Path | None, key: Path | None) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [sys.executable, "-m", "tests.native.faults_peer"]
    if cert is not None:
        command += ["--cert", str(cert), "--key", str(key)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(process.stdout.fileno(), 1) or b"[]\n"
        yield process, json.loads(line)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def numbers(calls: int, most: int) -> list[int]:
    """Which calls are to fail: all of them, or as many as allowed, the first ones close together."""
    if calls <= most:
        return list(range(1, calls + 1))
    half = most // 2
    rest = [half + 1 + (calls - half - 1) * i // max(1, most - half - 1) for i in range(most - half)]
    return sorted({*range(1, half + 1), *rest})


def try_all(trial: Trial, args: argparse.Namespace) -> int:
    """Returns how many promises weren't kept."""
    from .faults_play import SCENARIOS

    wrong = tried = 0
    for name in args.scenarios or SCENARIOS:
        for fault_name in args.faults or FAULTS:
            fault = FAULTS[fault_name]
            if fault.callers == LIBSSL and not SCENARIOS[name].tls:
                continue
            if args.only is None:
                counted = trial.run(name, fault, NEVER)
                if counted["wrong"] is not None:
                    print(f"{name} without a fault: {counted['wrong']}", flush=True)
                    return 1
                # Some more come now and then.
                firsts = numbers(counted["calls"], args.most) if fault.every else [1] if counted["calls"] else []
            else:
                firsts = [args.only]
            outcomes: dict[str, int] = {}
            for first in firsts:
                result = trial.run(name, fault, first)
                tried += 1
                what = result["raised"][-1] if result["raised"] else "all arrived"
                if not result["fired"]:
                    what = "not reached"
                if result["wrong"] is not None:
                    wrong += 1
                    what = "WRONG"
                    print(f"{name} {fault_name} {first}: {result['wrong']}", flush=True)
                elif args.verbose:
                    print(f"{name} {fault_name} {first}: {result}", flush=True)
                what = re.sub(r"\d+", "N", what)
                outcomes[what] = outcomes.get(what, 0) + 1
            if firsts:
                shown = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
                print(f"{name} {fault_name}: {len(firsts)} tried: {shown}", flush=True)
    print(f"{tried} faults tried, {wrong} promises not kept", flush=True)
    return wrong


def try_steps(shim: Shim, names: list[str]) -> int:
    """The steps without a socket, in a forked process. Returns how many promises weren't kept."""
    from .faults_steps import STEPS, run

    child = os.fork()
    if child == 0:
        code = 255
        try:
            faulthandler.enable()
            faulthandler.dump_traceback_later(STEPS_LIMIT_S, exit=True)
            wrong = list(run(shim, FAULTS["memory"], names or STEPS))
            for text in wrong[:20]:
                print(text[:1000], flush=True)
            code = min(len(wrong), 254)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    print(f"steps: {code} promises not kept" if code >= 0 else f"steps: the process ended with {code}", flush=True)
    return abs(code)


def compiler() -> str | None:
    """The C compiler, or None."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def why_not() -> str | None:
    """Why this can't be done here; None if it can."""
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return "needs Linux with glibc"
    return None if compiler() else "needs a C compiler"


def with_shim(arguments: list[str], folder: Path) -> int:
    """Run this command again with the library loaded."""
    shim = folder / "faults.so"
    build = [str(compiler()), "-O1", "-shared", "-fPIC", "-Wall", "-o", str(shim), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(build, check=True)
    env = os.environ | {"LD_PRELOAD": str(shim), SHIM_ENV: str(shim), "FASTWS_FAULTS_FOLDER": str(folder)}
    return subprocess.run([sys.executable, "-m", "tests.native.faults", *arguments], cwd=ROOT, env=env).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="*", metavar="NAME", help="these steps; without a name all of them")
    parser.add_argument("--scenarios", nargs="*", metavar="NAME", help="these scenarios; without a name all of them")
    parser.add_argument("--faults", nargs="*", metavar="NAME", help="of scenarios, only these")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="calls of one kind that are made to fail")
    parser.add_argument("--only", type=int, metavar="N", help="only the N-th call")
    parser.add_argument("--verbose", action="store_true", help="show what came of each")
    args = parser.parse_args()
    if (reason := why_not()) is not None:
        sys.exit(f"this {reason}")
    if SHIM_ENV not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            return with_shim(sys.argv[1:], Path(folder))

    from tests.interop.certificate import make_certificate

    from . import faults_steps  # noqa: F401  All code is to be there before its places are looked for.
    from .faults_play import Peer

    shim = Shim()
    shim.find_callers()
    wrong = 0
    if args.steps is not None or args.scenarios is None:
        wrong = try_steps(shim, args.steps or [])
        if args.scenarios is None and args.steps is not None:
            return 1 if wrong else 0
    certificate = make_certificate(Path(os.environ["FASTWS_FAULTS_FOLDER"]))
    cert, key = (None, None) if certificate is None else (certificate.cert, certificate.key)
    with started_peer(cert, key) as (process, ports):
        assert process.stdout is not None
        context = None if certificate is None else certificate.client_context()
        wrong += try_all(Trial(shim, Peer(*ports, context), process.stdout), args)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
