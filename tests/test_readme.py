"""What the README shows works: programs run, commands have their options, and CI runs the test command it gives."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastws

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TIMEOUT_S = 60.0

BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", README, re.MULTILINE)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
# `code` in the prose; what stands in blocks is left out.
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*\n(?:.*\n)*?```$", "", README, flags=re.MULTILINE))


def python(*args: str, cwd: Path = ROOT) -> str:
    """Run Python to its end; its output. Failing, and writing to stderr (as of what isn't closed), fails the test."""
    command = [sys.executable, "-W", "always::ResourceWarning", *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_blocks_are_seen():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert README.count("```") == 2 * len(BLOCKS)
    assert len(PROGRAMS) >= 3
    assert len(COMMANDS) >= 4


# Programs


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: f"program-{PROGRAMS.index(text) + 1}")
def test_programs_run(program, tmp_path):
    (tmp_path / "app.py").write_text(program)
    python("app.py", cwd=tmp_path)


def test_the_import_is_all_that_changes(tmp_path):
    """The first program prints the same with websockets, and with `fastws run`."""
    line = "import fastws as websockets\n"
    assert PROGRAMS[0].count(line) == 1
    (tmp_path / "ours.py").write_text(PROGRAMS[0])
    (tmp_path / "app.py").write_text(PROGRAMS[0].replace(line, "import websockets\n"))
    run = next(command for command in COMMANDS if " run " in command)
    assert run.startswith("python -m fastws run ")
    printed = python("app.py", cwd=tmp_path)
    assert printed == '{"price": 101}\n{"price": 102}\n{"price": 103}\n'
    assert python("ours.py", cwd=tmp_path) == printed
    assert python(*shlex.split(run)[1:], cwd=tmp_path) == printed


def test_same_imports_elsewhere():
    assert "from fastws.asyncio.client import connect" in CODE
    from fastws.asyncio.client import connect

    assert connect is fastws.connect


# Commands


@pytest.mark.parametrize("command", [command for command in COMMANDS if "&&" not in command])
def test_commands_have_their_options(command):
    words = [word for word in shlex.split(command) if "=" not in word]
    assert words.pop(0) == "python"
    named = [words.pop(0)]
    if named == ["-m"]:
        named.append(words.pop(0))
    if named[-1] == "fastws":
        named.append(words.pop(0))
    if named[-1] == "pytest":
        paths = [word for word in words if "/" in word]
        assert paths
        assert all((ROOT / path).exists() for path in paths)
        named += paths
    # Only to those that are known to show help and do nothing else.
    known = (
        "benchmarks.loops",
        "fastws",
        "pytest",
        "tests.native.faults",
        "tests.native.fuzz",
        "tests.native.sanitize",
        "tests.pump.soak",
        "tests.pump.stress",
    )
    assert named[0].endswith("/run.py") or named[1] in known
    shown = python(*named, "--help")
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{option} isn't an option of {command}"


def test_demo_has_its_options():
    shown = python("-m", "fastws", "demo", "--help")
    options = {word for code in CODE if code.startswith(("fastws demo ", "--")) for word in re.findall(r"--\w+", code)}
    assert options >= {"--recording", "--rate", "--seconds", "--blocked", "--loop", "--json"}
    assert not [option for option in options if option not in shown]
    assert fastws.IMPLEMENTATION in python("-m", "fastws", "--version")


@pytest.mark.parametrize("command", [command for command in COMMANDS if "&&" in command])
def test_fresh_machine(command):
    """Each of the two is one line, complete, and names what the project has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    venv, pip, run = map(shlex.split, command.split(" && "))
    assert venv == ["python3", "-m", "venv", ".venv"]
    assert pip[:-1] == [".venv/bin/pip", "install", "-e"]
    (extra,) = re.fullmatch(r"\.\[(\w+)\]", pip[-1]).groups()
    assert extra in project["optional-dependencies"]
    assert run in ([".venv/bin/fastws", "demo"], [".venv/bin/python", "-m", "pytest", "-q"])
    if run[-1] == "demo":
        assert project["scripts"]["fastws"] == "fastws.cli:main"


LOGGED = """\
#!/usr/bin/env bash
# Stands for every program: notes how it is called; `-m venv` makes more of its kind.
echo "$0 $*" >> "$CALLS"
if [[ "$*" == "-m venv "* ]]; then
    mkdir -p "$3/bin"
    for name in pip python ruff cython-lint mypy; do cp "$STUB" "$3/bin/$name"; done
    echo "export PATH=$3/bin:\\$PATH" > "$3/bin/activate"
fi
[[ "$*" != *"$FAILING"* ]]
"""


def ci_calls(folder: Path, failing: str) -> tuple[int, list[str]]:
    """Run ``.ci/run`` on a checkout of nothing: (exit status, calls with the environment's place as ``.venv``)."""
    checkout, path, temporary = folder / "checkout", folder / "path", folder / "temporary"
    for made in (checkout / ".ci", path, temporary):
        made.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    shutil.copy(ROOT / "README.md", checkout / "README.md")
    stub = path / "python3"
    stub.write_text(LOGGED)
    stub.chmod(0o755)
    calls = folder / "calls"
    done = subprocess.run(
        [checkout / ".ci" / "run"],
        env={
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "CALLS": str(calls),
            "STUB": str(stub),
            "FAILING": failing,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert not list(temporary.iterdir()), "it leaves its environment behind"
    noted = calls.read_text().replace(f"{path}/", "")
    return done.returncode, re.sub(rf"{re.escape(str(temporary))}/[^/ \n]+/venv", ".venv", noted).splitlines()


def test_ci_runs_the_test_command(tmp_path):
    (command,) = (command for command in COMMANDS if command.endswith("-m pytest -q"))
    steps = [" ".join(shlex.split(step)) for step in command.split(" && ")]
    status, calls = ci_calls(tmp_path / "passes", failing="nothing of this kind")
    assert status == 0
    # Lint and types run beside the tests.
    assert calls[:2] == steps[:2]
    assert calls.count(steps[2]) == 1
    lint = [call.partition(" ")[0].removeprefix(".venv/bin/") for call in calls[2:] if call != steps[2]]
    assert lint == ["python", "pip", "ruff", "ruff", "cython-lint", "mypy", "python"]
    for number, step in enumerate(steps, 1):
        status, calls = ci_calls(tmp_path / f"fails-{number}", failing=step.partition(" ")[2].replace(".venv", ""))
        assert status != 0
        assert calls[:number] == steps[:number] if number < 3 else step in calls
        assert number == 3 or len(calls) == number
    for failing in ("format --check", "src_cython", "mypy.stubtest"):
        assert ci_calls(tmp_path / f"fails-{failing}", failing)[0] != 0


# What is named


def test_names_exist():
    """Folders, files, links and environment variables."""
    links = re.findall(r"\]\((?!https://)([^)#]+)\)", README)
    paths = [code for code in CODE if re.fullmatch(r"(tests|benchmarks|fastws|src_cython|\.ci)/[\w./]+", code)]
    assert len(paths) >= 5
    assert not [path for path in [*links, *paths] if not (ROOT / path).exists()]
    read = "".join(path.read_text() for path in (ROOT / "setup.py", *(ROOT / "fastws").glob("*.py")))
    variables = {name for code in CODE for name in re.findall(r"\bFASTWS_\w+", code)}
    assert variables >= {"FASTWS_PURE", "FASTWS_SIMDJSON_DIR"}
    assert not [name for name in variables if f'"{name}"' not in read]


def test_defaults_are_as_stated():
    from websockets.asyncio import messages

    from fastws.wire import DEFAULT_MAX_FRAGMENTS, DEFAULT_MAX_QUEUE_BYTES, RECORD_BYTES

    assert (DEFAULT_MAX_QUEUE_BYTES, RECORD_BYTES, DEFAULT_MAX_FRAGMENTS) == (16 * 2**20, 32, 4096)
    assert "WEBSOCKETS_MAX_FRAGMENTS" in Path(messages.__file__).read_text()


def test_place_for_figures():
    """What fills it in finds it."""
    assert len(re.findall(r"^<!-- speed -->\n(?:.*\n)*?<!-- /speed -->$", README, re.MULTILINE)) == 1
