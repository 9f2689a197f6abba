"""The command itself: versions, help, and errors in one line."""

from __future__ import annotations

import importlib.metadata

import pytest

import fastws

from .command import run


def test_version_names_what_matters() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.split(" (")[0] == f"fastws {fastws.__version__}"
    assert f"({fastws.IMPLEMENTATION})" in done.stdout
    assert f"websockets {importlib.metadata.version('websockets')}" in done.stdout


def test_version_of_the_plain_python_data_plane() -> None:
    assert "(pure)" in run("--version", FASTWS_PURE="1").stdout


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "run"):
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "fastws: the following arguments are required: COMMAND"),
        (["nonsense"], "fastws: argument COMMAND: invalid choice: 'nonsense'"),
        (["--nonsense"], "fastws: "),
        (["demo", "--nonsense"], "fastws: unrecognized arguments: --nonsense"),
        (["demo", "--seconds", "soon"], "fastws demo: argument --seconds/--duration: invalid number value: 'soon'"),
        (["demo", "--seconds", "0"], "fastws demo: argument --seconds/--duration: 0 isn't between 0.05 and 3,600"),
        (["demo", "--rate", "nan"], "fastws demo: argument --rate: nan isn't between 1 and 1,000,000"),
        (["demo", "--port", "65536"], "fastws demo: argument --port: 65536 isn't between 0 and 65535"),
        (["demo", "--loop", "trio"], "fastws demo: argument --loop: invalid choice: 'trio'"),
        (["run"], "fastws run: a file or -m MODULE is required"),
        (["run", "-m"], "fastws run: a file or -m MODULE is required"),
    ],
)
def test_wrong_arguments_give_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], args: list[str], reason: str
) -> None:
    from fastws.cli import main

    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert not out
    assert err.startswith(reason)
    assert err.count("\n") == 1
    assert err.endswith("--help)\n")
