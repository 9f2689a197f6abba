"""``fastws.sync`` beside ``websockets.sync``: what a message costs a thread, and how late it comes. Prints a table.

python -m benchmarks.threads [--messages 200000] [--rounds 5]

The peer is a process of raw sockets, the same for both; they take turns. CPU is that of the receiving (or sending)
process, all its threads, the kernel's part included; "late" is from the peer's clock before it sends a message, every
2 ms, to the thread that waits in ``recv()``.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import websockets.sync.client

import fastws.sync

from .loops.frames import Stream, frame
from .loops.source import Peer
from .messages import trades

_BLOCK = 1000
_BURST, _DRAIN, _TICK = 1, 2, 3
_TICKS = 300
_THEIR_PART = 10
"""websockets takes a tenth of the messages: it would take minutes otherwise."""


def serve_one(sock: socket.socket, messages: int) -> None:
    # The length of the first message says what is wanted.
    _, first = Peer(sock, "").frame()
    what = len(first)
    if what == _BURST:
        block = Stream.of(trades(_BLOCK), "").wire
        for _ in range(messages // _BLOCK):
            sock.sendall(block)
        sock.recv(100)
    elif what == _DRAIN:
        while sock.recv(1 << 20):
            pass
    else:
        for _ in range(_TICKS):
            time.sleep(0.002)
            sock.sendall(frame(b"%d" % time.monotonic_ns()))
        sock.recv(100)


def serve(messages: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock, contextlib.suppress(OSError):
                serve_one(sock, messages)


def iterate(ws: Any, count: int) -> None:
    for number, _ in enumerate(ws, 1):
        if number == count:
            return


def receive(ws: Any, count: int) -> None:
    for _ in range(count):
        ws.recv()


def batches(ws: Any, count: int) -> None:
    taken = 0
    for batch in ws.iter_batches():
        for _ in batch:
            taken += 1
        if taken >= count:
            return


def send(ws: Any, count: int) -> None:
    (text,) = trades(1)
    for _ in range(count):
        ws.send(text)


WORK: dict[str, tuple[int, Callable[[Any, int], None]]] = {
    "for message in websocket": (_BURST, iterate),
    "recv()": (_BURST, receive),
    "iter_batches(), iterated": (_BURST, batches),
    "send()": (_DRAIN, send),
}


def connected(module: Any, port: int, what: int) -> Any:
    ws = module.connect(
        f"ws://127.0.0.1:{port}", compression=None, ping_interval=None, close_timeout=0.01, proxy=None, legacy=True
    )
    ws.send(b"x" * what)
    return ws


def cost(module: Any, port: int, name: str, count: int) -> tuple[float, float]:
    """(CPU, wall) nanoseconds for a message."""
    what, work = WORK[name]
    with connected(module, port, what) as ws:
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        work(ws, count)
        return (time.process_time_ns() - cpu) / count, (time.perf_counter_ns() - wall) / count


def lateness(module: Any, port: int) -> float:
    """Median in microseconds."""
    with connected(module, port, _TICK) as ws:
        late = [-int(ws.recv()) + time.monotonic_ns() for _ in range(_TICKS)]
    return statistics.median(late) / 1000


def main(messages: int, rounds: int) -> None:
    command = [sys.executable, "-m", "benchmarks.threads", "--serve", "--messages", str(messages)]
    modules = {"fastws": fastws.sync, "websockets": websockets.sync.client}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        port = int(peer.stdout.readline())
        try:
            print("| | fastws, CPU ns | wall ns | websockets, CPU ns | wall ns | CPU ratio |")
            print("|---|---:|---:|---:|---:|---:|")
            iterated: list[tuple[float, float]] = []
            for name in WORK:
                contenders = ["fastws"] if "batches" in name else ["fastws", "websockets"]
                figures: dict[str, list[tuple[float, float]]] = {}
                for _ in range(rounds):
                    for contender in contenders:
                        count = messages // (1 if contender == "fastws" else _THEIR_PART)
                        figures.setdefault(contender, []).append(cost(modules[contender], port, name, count))
                if "batches" in name:
                    figures["websockets"] = iterated
                elif "for" in name:
                    iterated = figures["websockets"]
                cells, cpus = [], []
                for contender in ("fastws", "websockets"):
                    cpu, wall = (statistics.median(column) for column in zip(*figures[contender], strict=True))
                    cpus.append(cpu)
                    cells += [f"{cpu:.0f}", f"{wall:.0f}"]
                print(f"| {name} | {' | '.join(cells)} | {cpus[1] / cpus[0]:.1f} |")
            late = {name: statistics.median(lateness(m, port) for _ in range(rounds)) for name, m in modules.items()}
            print(f"\nlate, to a thread that waits in recv(): fastws {late['fastws']:.0f} µs, ", end="")
            print(f"websockets {late['websockets']:.0f} µs")
        finally:
            peer.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.messages)
    else:
        main(arguments.messages, arguments.rounds)
