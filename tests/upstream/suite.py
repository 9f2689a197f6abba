"""Run websockets' own tests, optionally with fastws's classes in place; started by run.py.

Usage: python suite.py CHECKOUT RESULTS_JSON --with fastws|websockets [--only ID …], and the options of run.py
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import sys
import time
import unittest
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# test_messages tests the Assembler, which fastws's connections don't use.
MODULES = {
    "asyncio": ["test_client", "test_connection", "test_router", "test_server"],
    "sync": ["test_client", "test_connection"],
}
# Where test modules take websockets' names from, and where fastws has their counterparts.
COUNTERPARTS = {"asyncio": ["client", "connection", "router", "server"], "sync": ["client"]}
# They take milliseconds, but a lost race with the clock can leave one going for ever.
TEST_TIMEOUT_S = 30.0
SYNC_TIMEOUT_S = 5


class Outcomes(unittest.TextTestResult):
    """Notes the outcome of every test: passed, failed, or skipped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.started: dict[str, float] = {}

    def note(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        # A subtest, or a failing tearDown, can follow an earlier note; the worst one counts.
        test_id = getattr(test, "test_case", test).id()
        known = self.outcomes.get(test_id)
        if known is None or known["outcome"] != "failed":
            elapsed = time.perf_counter() - self.started.get(test_id, time.perf_counter())
            self.outcomes[test_id] = {"outcome": outcome, "seconds": round(elapsed, 3), "detail": detail}

    def startTest(self, test: unittest.TestCase) -> None:
        self.started[test.id()] = time.perf_counter()
        super().startTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.note(test, "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.note(test, "failed", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.note(test, "failed", self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.note(test, "failed", (self.failures + self.errors)[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.note(test, "passed")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.note(test, "failed", "unexpected success")


def replace_connection(module: ModuleType) -> int:
    """Put our class in the place of the one that clients and servers of ``websockets.sync`` have in common."""
    ours: Any = importlib.import_module("fastws.sync").ClientConnection

    class Connection(ours):  # type: ignore[misc]
        pending_legacy_warning = property(lambda self: False, lambda self, value: None)

    if vars(module).get("Connection") is not importlib.import_module("websockets.sync.connection").Connection:
        return 0
    module.Connection = Connection  # type: ignore[attr-defined]
    return 1


def replace_names(module: ModuleType, api: str) -> int:
    """Put fastws's names into a test module, wherever it has the object of websockets that they replace."""
    replaced = replace_connection(module) if api == "sync" else 0
    for part in COUNTERPARTS[api]:
        upstream = importlib.import_module(f"websockets.{api}.{part}")
        ours = importlib.import_module(f"fastws.{api}.{part}")
        for name in ours.__all__:
            original, replacement = getattr(upstream, name), getattr(ours, name)
            if original is replacement:
                continue
            for key, value in list(vars(module).items()):
                if value is original:
                    setattr(module, key, replacement)
                    replaced += 1
    return replaced


def tell_of_tls(module: ModuleType) -> None:
    """Their ``get_uri`` asks a private attribute of asyncio's servers, which don't do the TLS of receive threads."""
    serve, get_uri = vars(module).get("serve"), vars(module).get("get_uri")
    if serve is None or get_uri is None:
        return
    secure_servers: weakref.WeakSet[Any] = weakref.WeakSet()

    def serve_and_note(*args: Any, **kwargs: Any) -> Any:
        server = serve(*args, **kwargs)
        if kwargs.get("ssl") is not None:
            secure_servers.add(server)
        return server

    def uri_of(server: Any, secure: bool | None = None) -> Any:
        return get_uri(server, server in secure_servers if secure is None else secure)

    vars(module).update(serve=serve_and_note, get_uri=uri_of)


def use_uvloop() -> None:
    """Make uvloop the loop of all tests. They look at a private attribute of asyncio's servers; add it to uvloop's."""
    import uvloop

    class Server:
        def __init__(self, server: asyncio.AbstractServer, ssl_context: object) -> None:
            self._server = server
            self._ssl_context = ssl_context

        def __getattr__(self, name: str) -> Any:
            return getattr(self._server, name)

        async def __aenter__(self) -> Server:
            return self

        async def __aexit__(self, *exc: object) -> None:
            self._server.close()
            await self._server.wait_closed()

    class Loop(uvloop.Loop):
        async def create_server(self, *args: Any, **kwargs: Any) -> Any:
            return Server(await super().create_server(*args, **kwargs), kwargs.get("ssl"))

        async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any:
            return Server(await super().create_unix_server(*args, **kwargs), kwargs.get("ssl"))

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return Loop()

    asyncio.set_event_loop_policy(Policy())


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def bound(test: unittest.TestCase) -> None:
    """Make a test fail that doesn't end in time."""
    name = test.id().rpartition(".")[2]
    method = getattr(test, name, None)
    if not inspect.iscoroutinefunction(method):
        bound_thread(test, name, method)
        return

    @functools.wraps(method)
    async def bounded() -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S):
            await method()

    setattr(test, name, bounded)


def bound_thread(test: unittest.TestCase, name: str, method: Any) -> None:
    """The same for one that waits in the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"it doesn't end within {SYNC_TIMEOUT_S} s")

    @functools.wraps(method)
    def bounded() -> None:
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(SYNC_TIMEOUT_S)
        try:
            method()
        finally:
            signal.alarm(0)

    if method is not None:
        setattr(test, name, bounded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--with", dest="implementation", choices=["fastws", "websockets"], required=True)
    parser.add_argument("--api", choices=["asyncio", "sync"], default="asyncio")
    parser.add_argument("--receive", choices=["loop", "thread"], default="loop")
    parser.add_argument("--only", nargs="*", metavar="ID")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    args = parser.parse_args()
    # The checkout gives the tests only; websockets itself is the installed one.
    sys.path.insert(0, str(args.checkout))
    if args.loop == "uvloop":
        use_uvloop()

    # tests.asyncio.connection isn't among them: it is the remote side that records what our side sends.
    modules = [importlib.import_module(f"tests.{args.api}.{name}") for name in MODULES[args.api]]
    if args.implementation == "fastws":
        counts = {module.__name__: replace_names(module, args.api) for module in modules}
        if args.receive == "thread":
            os.environ["FASTWS_RECEIVE"] = "thread"
            for module in modules:
                tell_of_tls(module)
        if not all(counts.values()):
            sys.exit(f"a test module uses nothing that fastws replaces; the harness is out of date: {counts}")
    loader = unittest.TestLoader()
    suite = unittest.TestSuite(loader.loadTestsFromModule(module) for module in modules)
    if args.only:
        suite = unittest.TestSuite(test for test in flatten(suite) if test.id() in args.only)
    if args.api == "sync":
        # fastws has clients only.
        suite = unittest.TestSuite(test for test in flatten(suite) if "ServerConnectionTests" not in test.id())
    for test in flatten(suite):
        bound(test)
    result = unittest.TextTestRunner(resultclass=Outcomes, verbosity=0, stream=sys.stderr).run(suite)
    assert isinstance(result, Outcomes)
    # What isn't of a test (setUpModule, setUpClass) has no place of its own: it must not pass unseen.
    args.results.write_text(json.dumps(result.outcomes, indent=1))


if __name__ == "__main__":
    main()
