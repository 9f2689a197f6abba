"""Who may import whom: no import runs upward, there is no circle, and ``import fastws`` stays small."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastws"
CYTHON = ROOT / "src_cython" / "fastws"

# Rooms: the modules in each, as patterns of full names. Every module must be in exactly one.
ROOMS = {
    "vocabulary": r"wire|deflate|pickled|overflow|liveness|schema|exceptions",
    "helpers": r"failures|handshake",
    "observe": r"observe(\..*)?",
    "compiled": r"_[a-z]\w*",
    "reference": r"reference(\..*)?",
    "core": r"core",
    "batches": r"columns",
    "options": r"options",
    "connection": r"connection|observed|vitals|receiving|sending|pumping|security|tls|blocking",
    # Not among the batches: they receive, on the loop.
    "workers": r"workers|backlog|crews",
    "endpoints": r"client|server|router|sync(\..*)?",
    "package": r"|asyncio(\..*)?",
    "market": r"market(\..*)?",
    "cli": r"cli(\..*)?|__main__",
}

_DATA = {"vocabulary", "core"}
_CONNECTED = _DATA | {"helpers", "observe", "options", "connection", "batches"}

# A room may import from these, and, but for the vocabulary, from itself.
MAY_IMPORT: dict[str, set[str]] = {
    "vocabulary": set(),
    "helpers": {"vocabulary"},
    "observe": {"vocabulary"},
    "compiled": {"vocabulary"},
    "reference": {"vocabulary"},
    "core": {"vocabulary", "compiled", "reference"},
    "batches": _DATA,
    "options": {"vocabulary", "core", "observe"},
    "connection": _DATA | {"helpers", "observe", "options", "batches"},
    "workers": {"vocabulary", "connection"},
    "endpoints": _CONNECTED,
    "package": _CONNECTED | {"endpoints", "workers"},
    "market": _CONNECTED | {"endpoints", "workers", "package"},
    "cli": _CONNECTED | {"endpoints", "workers", "package", "market"},
}

CONTROL_PLANE = re.compile(r"(asyncio|websockets|uvloop)(\.|$)")
KNOWS_NO_NETWORK = {"compiled", "reference", "core", "batches"}

SOURCES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


@dataclasses.dataclass(frozen=True)
class Import:
    """One name of a module, as written at ``line``.

    Attributes:
        target: Full name of a module, or of something in a module.
        at_once: Whether it runs when the importing module is imported.
    """

    target: str
    line: int
    at_once: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """All imports in a module: those in functions and for type checkers, too, and those by a constant name."""
    tree = ast.parse(path.read_text(), str(path))
    at_once = set(running_statements(tree.body))
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                targets = [argument.value]
        for target in targets:
            yield Import(target, node.lineno, node in at_once)


def running_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: not those in functions, nor those for type checkers only."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from running_statements(statement.orelse)
            continue
        yield statement
        for field in ("body", "orelse", "finalbody"):
            yield from running_statements(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from running_statements(handler.body)


def home_of(target: str) -> str | None:
    """The module of ours that ``target`` is, or is in; None if it is somebody else's."""
    while target.partition(".")[0] == "fastws":
        if target in MODULES:
            return target
        target = target.rpartition(".")[0]
    return None


def room_of(module: str) -> str:
    rest = module.removeprefix("fastws").removeprefix(".")
    rooms = [room for room, pattern in ROOMS.items() if re.fullmatch(pattern, rest)]
    assert len(rooms) == 1, f"{module} belongs to {rooms}: give it one place in ROOMS"
    return rooms[0]


def is_allowed(module: str, target: str) -> bool:
    room, other = room_of(module), room_of(target)
    return other in MAY_IMPORT[room] or (room == other and room != "vocabulary")


# Python


def test_rules_are_a_hierarchy():
    assert MAY_IMPORT.keys() == ROOMS.keys()
    tuple(graphlib.TopologicalSorter(MAY_IMPORT).static_order())


def test_every_module_has_a_place():
    assert "fastws.connection" in MODULES
    for module in MODULES:
        room_of(module)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upward(module):
    wrong = []
    for found in imports_of(module, MODULES[module]):
        home = home_of(found.target)
        if home is not None and home != module and not is_allowed(module, home):
            wrong.append(f"{MODULES[module].relative_to(ROOT)}:{found.line}: {room_of(module)} imports {home}")
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_data_plane_knows_no_network(module):
    if room_of(module) not in KNOWS_NO_NETWORK and module not in ("fastws.wire", "fastws.deflate"):
        return
    wrong = [f"line {f.line}: {f.target}" for f in imports_of(module, MODULES[module]) if CONTROL_PLANE.match(f.target)]
    assert not wrong


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.suffix == ".py":
            homes = {home_of(found.target) for found in imports_of(module, path) if found.at_once}
            graph[module] = {home for home in homes if home is not None and home != module}
    assert graph["fastws.client"] >= {"fastws.connection"}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("from ..core import Batch", False),
        ("def f():\n    from fastws import connection", False),
        ("import importlib\nimportlib.import_module('fastws.client')", False),
        ("from ..wire import Opcode", True),
        ("from . import header", True),
        ("import zlib", True),
    ],
)
def test_the_check_itself(tmp_path, source, allowed):
    """What stands in a module of the reference is seen."""
    path = tmp_path / "made_up.py"
    path.write_text(source)
    homes = [home_of(found.target) for found in imports_of("fastws.reference.made_up", path)]
    assert all(is_allowed("fastws.reference.header", home) for home in homes if home is not None) is allowed


# Cython

CYTHON_SOURCES = {path.name: path for path in sorted([*CYTHON.glob("*.pxd"), *CYTHON.glob("*.pyx")])}
CONSTANTS = "_wire"
LEAVES = ("_mask", "_header", "_utf8")
WITHOUT_PYTHON = {"_wire.pxd", "_mask.pxd", "_header.pxd", "_utf8.pxd", "_segment.pxd", "_inbox.pxd", "_inflate.pxd"}

_STATEMENT = re.compile(r"^[ \t]*(?:from[ \t]+(\S+)[ \t]+)?(c?import)[ \t]+\(?\s*(\w[\w.]*)", re.MULTILINE)


def cython_imports(path: Path) -> Iterator[tuple[str, str]]:
    """("import" or "cimport", module) of each statement; names from ``.`` and of our package count as modules."""
    text = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
    for base, kind, first in _STATEMENT.findall(text):
        module = base.lstrip(".") or first if base.startswith(".") else base or first
        if base == "fastws":
            module = f"fastws.{first}"
        yield kind, f".{module}" if base.startswith(".") else module


def test_cython_sources_are_seen():
    assert set(CYTHON_SOURCES) >= WITHOUT_PYTHON | {"_decoder.pyx", "_decoder.pxd"}
    assert ("cimport", "._segment") in set(cython_imports(CYTHON_SOURCES["_decoder.pyx"]))
    assert ("import", "fastws.wire") in set(cython_imports(CYTHON_SOURCES["_state.pyx"]))


@pytest.mark.parametrize("name", CYTHON_SOURCES)
def test_compiled_core_knows_no_network(name):
    assert not [module for _, module in cython_imports(CYTHON_SOURCES[name]) if CONTROL_PLANE.match(module)]


@pytest.mark.parametrize("name", CYTHON_SOURCES)
def test_compiled_core_imports_nothing_upward(name):
    for kind, module in cython_imports(CYTHON_SOURCES[name]):
        if module.startswith("fastws"):
            assert kind == "import", f"cimport {module}"
            assert room_of(module) in MAY_IMPORT["compiled"], f"{name} imports {module}"


@pytest.mark.parametrize("name", [CONSTANTS, *LEAVES])
def test_leaves_import_libc_only(name):
    """And the constants of the wire."""
    allowed = "libc" if name == CONSTANTS else f"libc|\\.{CONSTANTS}$"
    for suffix in (".pxd", ".pyx"):
        path = CYTHON / f"{name}{suffix}"
        if path.exists():
            assert not [module for _, module in cython_imports(path) if not re.match(allowed, module)]


@pytest.mark.parametrize("name", sorted(WITHOUT_PYTHON))
def test_memory_and_bytes_know_no_python_object(name):
    assert not [module for _, module in cython_imports(CYTHON_SOURCES[name]) if module.startswith("cpython")]


def test_no_circles_among_extension_modules():
    graph: dict[str, set[str]] = {}
    for name, path in CYTHON_SOURCES.items():
        stem = Path(name).stem
        ours = {module[1:] for _, module in cython_imports(path) if module.startswith(".")}
        graph.setdefault(stem, set()).update(ours - {stem})
    assert graph["_decoder"] >= {"_segment", "_inbox", "_decoding"}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", CYTHON_SOURCES)
def test_only_pumps_know_pumps(name):
    """There are none on Windows."""
    pumps = {"_pump", "_pumped", "_fed", "_line"}
    if Path(name).stem not in pumps:
        assert not pumps & {module[1:] for _, module in cython_imports(CYTHON_SOURCES[name])}


# What is loaded


def loaded_by(statement: str, **environment: str) -> set[str]:
    """Modules in a fresh interpreter after ``statement``."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "FASTWS_PURE": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("pure", ["0", "1"], ids=["compiled", "pure"])
def test_import_fastws_is_small(pure):
    """Nothing of other people's that ``websockets`` doesn't import for the same, nothing of ours that isn't needed."""
    ours = loaded_by("import fastws", FASTWS_PURE=pure)
    theirs = loaded_by("import websockets.asyncio.client, websockets.asyncio.server")
    libraries = {name.partition(".")[0] for name in ours - theirs} - set(sys.stdlib_module_names)
    libraries = {name for name in libraries if not name.startswith("_")}
    assert libraries <= {"fastws", "websockets", "cython_runtime"}
    rooms = {room_of(name) for name in ours if home_of(name) == name}
    other = "compiled" if pure == "1" else "reference"
    assert not rooms & {"market", "cli", "batches", other}
