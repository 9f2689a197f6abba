"""One contender, one workload, one loop, one run, in this process; the result goes to standard output as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from benchmarks import messages
from benchmarks.loops.contenders import Job, load
from benchmarks.loops.frames import Digest
from benchmarks.loops.measure import Stopwatch, pin
from benchmarks.loops.works import WORKS, Work

LOOPS = ("uvloop", "asyncio", "uvloop+aiofastnet", "asyncio+aiofastnet")
TASKS = {"burst": "burst", "memory": "burst", "echo": "echo", "send": "sink"}


def loop_factory(name: str) -> Any:
    """A factory for `asyncio.Runner`; None is asyncio's own loop."""
    base, _, transports = name.partition("+")
    factory: Any = None
    if base == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    if transports:
        import aiofastnet

        factory = aiofastnet.loop_factory(factory)
    return factory


def make_job(spec: dict[str, Any], work: Work) -> Job:
    context = None
    if work.tls:
        import ssl

        context = ssl.create_default_context(cafile=spec["cafile"])
    check = spec["mode"] == "check"
    repeats = 1 if check else work.repeats
    texts = messages.make(work.payload, work.block) if work.kind in ("echo", "send") else []
    scheme = "wss" if work.tls else "ws"
    return Job(
        f"{scheme}://127.0.0.1:{spec['port']}/{TASKS[work.kind]}?repeats={repeats}&check={int(check)}",
        context,
        bool(work.deflate),
        repeats,
        spec["wire_bytes"] * repeats,
        texts,
    )


async def run(spec: dict[str, Any], work: Work) -> dict[str, Any]:
    contender, job, watch = load(spec["contender"]), make_job(spec, work), Stopwatch()
    result: dict[str, Any]
    if work.kind == "echo":
        echoes = await contender.echo(job, watch)
        result = {"count": len(job.messages) * job.repeats, "right": echoes == job.messages}
    elif work.kind == "send":
        result = json.loads(await contender.send(job, watch))
    elif work.kind == "memory":
        count, growth = await contender.hold(job, watch)
        result = {"count": count, "rss_bytes": growth}
    elif spec["mode"] == "check":
        digest = Digest()
        await contender.check(job, digest)
        return digest.result()
    else:
        result = {"count": await contender.receive(job, watch)}
    return {**result, "cpu_ns": watch.cpu_ns, "wall_ns": watch.wall_ns}


def main() -> None:
    spec = json.loads(sys.argv[1])
    pin(spec["core"])
    work = WORKS[spec["work"]].quick() if spec["quick"] else WORKS[spec["work"]]
    with asyncio.Runner(loop_factory=loop_factory(spec["loop"])) as runner:
        print(json.dumps(runner.run(run(spec, work))))


if __name__ == "__main__":
    main()
