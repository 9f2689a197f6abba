"""``fastws run``: programs that know only websockets get fastws, and otherwise run as without it."""

from __future__ import annotations

import json
import subprocess
import textwrap
import zipfile
from pathlib import Path

import pytest

import fastws

from .command import execute, run

ECHO = """\
import asyncio, json
{imports}

async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)

async def main():
    async with {serve}(echo, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with {connect}(f"ws://127.0.0.1:{{port}}") as near:
            await near.send("hello")
            assert await near.recv() == "hello"
            (far,) = listening.connections
            print(json.dumps([f"{{type(x).__module__}}.{{type(x).__name__}}" for x in (near, far)]))

asyncio.run(main())
"""

OURS = ["fastws.client.ClientConnection", "fastws.server.ServerConnection"]


def program(folder: Path, text: str, name: str = "app.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(textwrap.dedent(text))
    return path


def both(*args: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """The same under plain Python and under ``fastws run``."""
    return execute(*args, cwd=cwd), run("run", *args, cwd=cwd)


# What it replaces


@pytest.mark.parametrize(
    ("imports", "connect", "serve"),
    [
        ("import websockets", "websockets.connect", "websockets.serve"),
        ("from websockets import connect, serve", "connect", "serve"),
        ("from websockets import *", "connect", "serve"),
        ("import websockets as ws", "ws.connect", "ws.serve"),
        ("import websockets.asyncio.client as c\nimport websockets.asyncio.server as s", "c.connect", "s.serve"),
        ("import websockets.asyncio.client, websockets.asyncio.server", "websockets.asyncio.client.connect",
         "websockets.asyncio.server.serve"),
        ("from websockets.asyncio.client import connect\nfrom websockets.asyncio.server import serve", "connect",
         "serve"),
        ("from websockets.asyncio import client, server", "client.connect", "server.serve"),
        ("import importlib\nw = importlib.import_module('websockets')", "getattr(w, 'connect')", "getattr(w, 'serve')"),
        (
            "import websockets\n"
            "class Client(websockets.ClientConnection): pass\n"
            "Client.__module__, Client.__name__ = 'fastws.client', 'ClientConnection'\n"
            "assert issubclass(Client, __import__('fastws').ClientConnection)\n"
            "def connect(uri): return websockets.connect(uri, create_connection=Client)",
            "connect",
            "websockets.serve",
        ),
    ],
)  # fmt: skip
def test_connections_are_those_of_fastws(tmp_path: Path, imports: str, connect: str, serve: str) -> None:
    app = program(tmp_path, ECHO.format(imports=imports, connect=connect, serve=serve))
    done = run("run", str(app))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == OURS


def test_without_run_they_are_not(tmp_path: Path) -> None:
    app = program(
        tmp_path, ECHO.format(imports="import websockets", connect="websockets.connect", serve="websockets.serve")
    )
    assert all(name.startswith("websockets.") for name in json.loads(execute(str(app)).stdout))


def test_every_name_is_replaced_everywhere(tmp_path: Path) -> None:
    app = program(
        tmp_path,
        """\
        import importlib, fastws, websockets
        for part in ("client", "connection", "router", "server"):
            ours = importlib.import_module(f"fastws.asyncio.{part}")
            theirs = importlib.import_module(f"websockets.asyncio.{part}")
            for name in ours.__all__:
                assert getattr(theirs, name) is getattr(ours, name), (part, name)
                print(name)
                if hasattr(websockets, name):
                    assert getattr(websockets, name) is getattr(fastws, name), name
        """,
    )
    done = run("run", str(app))
    assert done.returncode == 0, done.stderr
    assert {
        "connect", "unix_connect", "serve", "unix_serve", "broadcast", "ClientConnection", "ServerConnection", "Server",
        "Connection", "route", "unix_route", "Router", "basic_auth",
    } <= set(done.stdout.split())  # fmt: skip


SYNC = """\
import threading
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import serve

def echo(websocket):
    for message in websocket:
        websocket.send(message)

with serve(echo, "127.0.0.1", 0) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        assert isinstance(websocket, ClientConnection)
        print(type(websocket).__module__)
    server.shutdown()
    thread.join()
"""


def test_clients_without_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They need receive threads: without the compiled core, they stay those of websockets."""
    app = program(tmp_path, SYNC)
    without, done = both(str(app), cwd=tmp_path)
    assert (without.stdout, without.stderr) == ("websockets.sync.client\n", "")
    ours = "websockets.sync.client\n" if fastws.IMPLEMENTATION == "pure" else "fastws.sync.connection\n"
    assert (done.stdout, done.stderr) == (ours, "")
    monkeypatch.setenv("FASTWS_PURE", "1")
    assert run("run", str(app)).stdout == "websockets.sync.client\n"


def test_unix_sockets_broadcast_and_routes_work(tmp_path: Path) -> None:
    pytest.importorskip("werkzeug")
    app = program(
        tmp_path,
        """\
        import asyncio, tempfile, os, websockets
        from werkzeug.routing import Map, Rule

        async def main(path):
            async def handler(websocket, name):
                websockets.broadcast([websocket], f"{name} to {type(websocket).__module__}")
                await websocket.wait_closed()

            rules = Map([Rule("/<name>", endpoint=handler)])
            async with websockets.unix_route(rules, path):
                async with websockets.unix_connect(path, "ws://localhost/route") as websocket:
                    print(await websocket.recv(), type(websocket).__module__)

            async def greet(websocket):
                await websocket.send(f"serve to {type(websocket).__module__}")

            async with websockets.unix_serve(greet, path):
                async with websockets.unix_connect(path) as websocket:
                    print([message async for message in websocket])

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(os.path.join(folder, "s")))
        """,
    )
    done = run("run", str(app))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "route to fastws.server fastws.client\n['serve to fastws.server']\n"


def test_fastws_itself_is_unharmed(tmp_path: Path) -> None:
    app = program(
        tmp_path,
        """\
        import fastws, fastws.asyncio.client, fastws.asyncio.server, websockets
        from websockets.asyncio.client import connect
        assert connect is fastws.connect
        # What it builds on is still websockets' own.
        assert [base.__module__ for base in connect.__mro__[:2]] == ["fastws.client", "websockets.asyncio.client"]
        assert fastws.client.UpstreamClientConnection.__module__ == "websockets.asyncio.client"
        assert fastws.client.UpstreamClientConnection is not websockets.ClientConnection
        """,
    )
    done = run("run", str(app))
    assert done.returncode == 0, done.stderr


def test_the_servers_of_threads_and_legacy_apis_stay(tmp_path: Path) -> None:
    app = program(
        tmp_path,
        """\
        import warnings
        warnings.simplefilter("ignore")
        import websockets.sync.server, websockets.legacy.client
        print(websockets.sync.server.serve.__module__)
        print(websockets.legacy.client.connect.__module__)
        """,
    )
    done = run("run", str(app))
    assert done.stdout.split() == ["websockets.sync.server", "websockets.legacy.client"]


def test_the_plain_python_data_plane(tmp_path: Path) -> None:
    app = program(tmp_path, "import fastws, websockets; print(fastws.IMPLEMENTATION, websockets.connect.__module__)")
    assert run("run", str(app), FASTWS_PURE="1").stdout == "pure fastws.client\n"


# What it leaves as it is


LOOK = """\
import json, sys
main = sys.modules["__main__"]
print(json.dumps([
    sys.argv, sys.path[0], __name__, __file__, __package__, __spec__ and __spec__.name,
    main.__dict__ is globals(), type(__loader__).__name__,
]))
"""


@pytest.mark.parametrize("args", [[], ["--help"], ["-m", "x"], ["a b", "--", "--version", "-"], ["run", "demo"]])
def test_a_script_sees_what_it_sees_without(tmp_path: Path, args: list[str]) -> None:
    program(tmp_path, LOOK, "folder/app.py")
    plain, ours = both("folder/app.py", *args, cwd=tmp_path)
    assert plain.returncode == ours.returncode == 0
    assert json.loads(ours.stdout) == json.loads(plain.stdout)
    assert json.loads(ours.stdout)[0] == ["folder/app.py", *args]


@pytest.mark.parametrize("name", ["package", "package.module", "top"])
def test_a_module_sees_what_it_sees_without(tmp_path: Path, name: str) -> None:
    for path in ("package/__init__.py", "package/__main__.py", "package/module.py", "top.py"):
        program(tmp_path, "" if path.endswith("__init__.py") else LOOK, path)
    plain, ours = both("-m", name, "--help", "-m", cwd=tmp_path)
    assert plain.returncode == ours.returncode == 0
    assert json.loads(ours.stdout) == json.loads(plain.stdout)


def test_folders_and_zip_files_run(tmp_path: Path) -> None:
    program(tmp_path, "import beside, sys; print(beside.WHO, sys.argv[1:], sys.path[1])", "app/__main__.py")
    program(tmp_path, "WHO = 'neighbour'", "app/beside.py")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for name in ("__main__.py", "beside.py"):
            archive.write(tmp_path / "app" / name, name)
    for name in ("app", "app.zip"):
        plain, ours = both(name, "x", cwd=tmp_path)
        assert ours.stdout == plain.stdout
        assert ours.stdout.startswith("neighbour ['x'] ")


def test_a_script_behind_a_link_finds_its_neighbours(tmp_path: Path) -> None:
    program(tmp_path, "import beside; print(beside.WHO)", "real/app.py")
    program(tmp_path, "WHO = 'neighbour'", "real/beside.py")
    (tmp_path / "link.py").symlink_to("real/app.py")
    plain, ours = both("link.py", cwd=tmp_path)
    assert ours.stdout == plain.stdout == "neighbour\n"


ENDS = {
    "the end": "print('fine')",
    "status": "import sys; sys.exit(7)",
    "message": "import sys; sys.exit('sorry')",
    "none": "raise SystemExit",
    "exception": """\
        def fail(): raise ValueError("wrong")
        fail()
        """,
    "group": "raise ExceptionGroup('several', [ValueError(1), OSError(2)])",
    "cause": """\
        try:
            1 / 0
        except ZeroDivisionError as exc:
            raise RuntimeError("because") from exc
        """,
    "import": "import no_such_module",
    "syntax": "def (",
    "encoding": "# coding: latin-1\nprint(ascii('\u00e9'))",
    "os error": "open('/no/such/file')",
    "broken pipe": "raise BrokenPipeError(32, 'Broken pipe')",
    "interrupt": "raise KeyboardInterrupt",
    "hook": """\
        import sys
        sys.excepthook = lambda kind, exc, tb: print("hook", kind, exc, tb.tb_frame.f_code.co_name, tb.tb_lineno)
        raise ValueError("wrong")
        """,
    "atexit": """\
        import atexit, sys
        class Here: pass
        atexit.register(lambda: print(sys.modules["__main__"].Here is Here))
        """,
    "thread": """\
        import pickle, threading, time
        class Here: pass
        def later():
            time.sleep(0.05)
            print(type(pickle.loads(pickle.dumps(Here()))) is Here)
        threading.Thread(target=later).start()
        """,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends_as_it_does_without(tmp_path: Path, end: str) -> None:
    app = program(tmp_path, ENDS[end])
    plain, ours = both(str(app), cwd=tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


@pytest.mark.parametrize("end", ["status", "exception", "interrupt", "import"])
def test_a_module_ends_as_it_does_without(tmp_path: Path, end: str) -> None:
    program(tmp_path, ENDS[end])
    plain, ours = both("-m", "app", cwd=tmp_path)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    # Python's own traceback of a module begins inside runpy.
    ending = plain.stderr.partition(str(tmp_path))[2]
    assert ours.stderr.partition(str(tmp_path))[2] == ending
    assert "fastws" not in ours.stderr
    assert "runpy" not in ours.stderr


@pytest.mark.parametrize(
    ("args", "status", "reason"),
    [
        (["none.py"], 2, "can't open file 'none.py': No such file or directory"),
        (["-m", "no_such_module"], 1, "No module named no_such_module"),
        (["."], 1, "can't find '__main__' module in "),
    ],
)
def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, args: list[str], status: int, reason: str) -> None:
    plain, ours = both(*args, cwd=tmp_path)
    assert ours.returncode == plain.returncode == status
    assert ours.stderr.startswith(f"fastws: {reason}")
    assert ours.stderr.count("\n") == 1


def test_the_command_websockets_itself_runs(tmp_path: Path) -> None:
    done = run("run", "-m", "websockets", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "websockets" in done.stdout


def test_names_imported_before_keep_what_they_had() -> None:
    done = execute(
        "-c",
        "from websockets import connect as before; from fastws.cli.patch import replace_websockets;"
        "replace_websockets(); replace_websockets(); from websockets import connect as after;"
        "print(before.__module__, after.__module__)",
    )
    assert done.stdout == "websockets.asyncio.client fastws.client\n"
