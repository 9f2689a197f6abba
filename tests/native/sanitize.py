"""Build the compiled core with sanitizers, in a folder of its own, and run tests, the fuzzer or threads over it.

Usage: python -m tests.native.sanitize [--tests PATH ...] [-k EXPRESSION] [--python PATH]
       python -m tests.native.sanitize --fuzz SECONDS [--python PATH]
       python -m tests.native.sanitize --soak SECONDS [--python PATH]
       python -m tests.native.sanitize --threads SECONDS [--tests PATH ...] [-k EXPRESSION] [--python PATH]

By default AddressSanitizer and UndefinedBehaviorSanitizer watch tests/core, tests/connection and tests/pump, and
tests/connection a second time with receive="thread"; with --soak instead tests/pump/soak.py, plain and with TLS, for so
long each. With --threads, ThreadSanitizer watches tests/native/threads.py, tests/pump/stress.py and both soaks for so
long each, and tests if they are named; FASTWS_RECEIVE=thread in the environment gives these receive threads. Options
that this command doesn't know, such as -k, go to pytest.
The exit status is 0 if the sanitizers found nothing and everything passed.

Needs GCC with its sanitizers, and an interpreter with fastws's build requirements and test dependencies.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fastws", "src_cython", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
DEFAULT_TESTS = ("tests/core", "tests/connection", "tests/pump")
PUMPED_TESTS = ("tests/connection",)
PROGRESS_S = 15
# AddressSanitizer keeps what was freed, to see who uses it: resident memory says nothing of us.
OF_RESIDENT_MEMORY = (
    "tests/connection/test_leaks.py::test_resident_memory_is_bounded",
    "tests/connection/test_leaks.py::test_open_connections_are_small",
)

# Memory that goes back to a pool stays addressable, and who uses it too late goes unseen: AddressSanitizer gets a core
# whose pools keep nothing.
POOL = re.compile(r"^(cdef int\[SEGMENT_CLASSES\] pool_limits = )\[[^\]]+\]$", re.MULTILINE)
ARRAYS = re.compile(r"^(    ARRAYS_KEEP = ).+$", re.MULTILINE)

# The runtimes must come before the interpreter, which isn't instrumented; libstdc++ with them, so that they can
# intercept exceptions of C++ modules.
RUNTIMES = {"address,undefined": ("libasan.so", "libubsan.so", "libstdc++.so.6"), "thread": ("libtsan.so",)}
ADDRESS, THREAD = RUNTIMES

OPTIONS = {
    "ASAN_OPTIONS": "halt_on_error=1:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
    ":check_initialization_order=1:allocator_may_return_null=1:handle_abort=1",
    # The interpreter leaves much behind: all is reported, `findings` looks for what is ours.
    "LSAN_OPTIONS": "exitcode=0:max_leaks=0:report_objects=0:print_suppressions=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=0:history_size=4:second_deadlock_stack=1",
}
# Memory of a thread that has ended is given back by another that finds its stack in the C library's cache, under a lock
# that ThreadSanitizer doesn't know.
OF_ENDED_THREADS = "_dl_deallocate_tls"
OURS = re.compile(r"/fastws/_\w+\.[\w.-]*so|src_cython/fastws/|in __pyx_|fastws_")


def copy_source(folder: Path, *, pools: bool) -> None:
    """Bring the sources in ``folder`` up to date; what a build made there stays, and so does the time of what is equal.

    Compilers go by times, and those of a checkout may be older than what was built of another.
    """
    for name in COPIED:
        source = ROOT / name
        for path in [source] if source.is_file() else sources(source):
            data = path.read_bytes()
            if path.name == "_segment.pyx" and not pools:
                text, count = POOL.subn(r"\1[0, 0, 0]", data.decode())
                text, more = ARRAYS.subn(r"\g<1>0", text)
                if (count, more) != (1, 1):
                    sys.exit(f"{path} has no limits as this command knows them: bring POOL and ARRAYS up to date")
                data = text.encode()
            copy = folder / path.relative_to(ROOT)
            if not copy.exists() or copy.read_bytes() != data:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(data)
        for path in sources(folder / name):
            if not (ROOT / path.relative_to(folder)).exists():
                path.unlink()


def sources(folder: Path) -> list[Path]:
    """The files below a folder, without what was made of them and without the ignored work/."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc")]
    return [path for path in files if "work" not in path.relative_to(folder).parts]


def build(folder: Path, python: str, sanitizers: str) -> None:
    """Compile in ``folder``; ends the process if that fails."""
    started = time.monotonic()
    # Rings of two records, so that few messages make them grow, wrap and change hands.
    flags = "-fno-sanitize-recover=undefined -DFASTWS_RING_MIN=2"
    env = os.environ | {"FASTWS_SANITIZE": sanitizers, "CXXFLAGS": flags}
    env.pop("FASTWS_PURE", None)
    print(f"building with -fsanitize={sanitizers} in {folder}", flush=True)
    log = folder / "build.log"
    with log.open("wb") as output:
        command = [python, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"the build failed:\n{log.read_text()[-3000:]}")
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


def runtime(name: str) -> str:
    """The path of a library of the compiler."""
    compiler = os.environ.get("CXX", "g++")
    path = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    if not Path(path.stdout.strip()).is_absolute():
        sys.exit(f"{compiler} has no {name}: install GCC's sanitizer runtimes")
    return str(Path(path.stdout.strip()).resolve())


def watched(folder: Path, sanitizers: str) -> dict[str, str]:
    """The environment for a process under sanitizers that write to ``folder``/report.*."""
    for report in folder.glob("report.*"):
        report.unlink()
    env = {name: f"{value}:log_path={folder / 'report'}" for name, value in OPTIONS.items()}
    return (
        os.environ
        | env
        | {
            "LD_PRELOAD": ":".join(runtime(name) for name in RUNTIMES[sanitizers]),
            # Objects from malloc, not from arenas that hide their ends.
            "PYTHONMALLOC": "malloc",
        }
    )


def run(folder: Path, command: list[str], env: dict[str, str]) -> int:
    """Run a command in ``folder``, show what matters of its output; its exit status."""
    where = subprocess.run(
        [command[0], "-c", "import fastws._decoder as module; print(module.__file__)"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    if folder not in Path(where.stdout.strip()).parents:
        sys.exit(f"the sanitized build can't be imported from {folder}:\n{where.stdout}{where.stderr[-3000:]}")
    print("running", *command[1:], flush=True)
    shown, last = time.monotonic(), ""
    important = re.compile(r"(FAILED|ERROR|E  |=+ .*(passed|failed|error)|.*inputs|.*segments|.*stored|replay)", re.I)
    with (folder / "output.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if line.strip():
                last = line.strip()
            if important.match(line) or time.monotonic() - shown > PROGRESS_S:
                shown = time.monotonic()
                print(" ", line.rstrip()[:160], flush=True)
        status = process.wait()
    if status < 0 or status > 5:
        print(f"ended with {status}; the last line was: {last[:300]}", flush=True)
    return status


def findings(folder: Path) -> Iterable[str]:
    """Reports of the sanitizers, without leaks and races in which no code of ours takes part."""
    for path in sorted(folder.glob("report.*")):
        text = path.read_text(errors="replace")
        if "ThreadSanitizer" in text:
            parts = [part for part in text.split("==================") if OF_ENDED_THREADS not in part]
        elif "LeakSanitizer: detected memory leaks" in text:
            parts = re.split(r"\n\s*\n(?=(?:Direct|Indirect) leak)", text)[1:]
        else:
            yield text
            continue
        yield from (part.strip() for part in parts if part.strip() and OURS.search(part))


def check(folder: Path, command: list[str], sanitizers: str) -> bool:
    """Run a command under sanitizers and say what came of it; whether all was well."""
    status = run(folder, command, watched(folder, sanitizers))
    found = list(findings(folder))
    for finding in found[:10]:
        print(f"\n{finding[:4000]}\n", flush=True)
    verdict = f"{len(found)} findings" if found else "the sanitizers found nothing"
    print(f"{' '.join(command[1:])}: {verdict}, exit status {status}\n", flush=True)
    return not found and status == 0


def run_tests(folder: Path, python: str, tests: Iterable[str], options: Iterable[str], sanitizers: str) -> bool:
    """Run pytest under sanitizers; whether all was well."""
    # faulthandler would take signals away from AddressSanitizer.
    ours = ["-v", "--tb=short", "-p", "no:faulthandler", "-p", "no:cacheprovider"]
    ours += [f"--deselect={test}" for test in OF_RESIDENT_MEMORY]
    return check(folder, [python, "-m", "pytest", *ours, *options, *tests], sanitizers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="*", help=f"what pytest runs; default: {' '.join(DEFAULT_TESTS)}")
    parser.add_argument("--fuzz", type=float, metavar="SECONDS", help="fuzz for so long; without --tests, only that")
    parser.add_argument("--seed", type=int, help="for --fuzz")
    parser.add_argument(
        "--threads", type=float, metavar="SECONDS", help="threads under ThreadSanitizer; without --tests, only that"
    )
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="whole connections; without --tests, only that")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build for and to run")
    parser.add_argument("--folder", type=Path, help="where to build; default: build/sanitize of the checkout")
    args, pytest_options = parser.parse_known_args()

    sanitizers = ADDRESS if args.threads is None else THREAD
    folder = (args.folder or ROOT / "build" / "sanitize").resolve() / sanitizers.replace(",", "-")
    folder.mkdir(parents=True, exist_ok=True)
    copy_source(folder, pools=sanitizers == THREAD)
    build(folder, args.python, sanitizers)

    well = True
    if args.threads is not None:
        for module in ("tests.native.threads", "tests.pump.stress"):
            well &= check(folder, [args.python, "-m", module, "--seconds", str(args.threads)], sanitizers)
    if (seconds := args.threads if args.soak is None else args.soak) is not None:
        for options in ([], ["--tls"]):
            # Memory of sanitizers says nothing of us.
            command = [args.python, "-m", "tests.pump.soak", "--seconds", str(seconds), "--no-rss", *options]
            well &= check(folder, command, sanitizers)
    if args.fuzz is not None:
        command = [
            args.python,
            "-m",
            "tests.native.fuzz",
            "--seconds",
            str(args.fuzz),
            "--out",
            str(ROOT / "build" / "fuzz"),
        ]
        well &= check(folder, [*command, *(("--seed", str(args.seed)) if args.seed is not None else ())], sanitizers)
    if args.tests is not None:
        well &= run_tests(folder, args.python, args.tests, pytest_options, sanitizers)
    elif args.fuzz is None and args.threads is None and args.soak is None:
        well &= run_tests(folder, args.python, DEFAULT_TESTS, pytest_options, sanitizers)
        os.environ["FASTWS_RECEIVE"] = "thread"
        well &= run_tests(folder, args.python, PUMPED_TESTS, pytest_options, sanitizers)
    print("verdict:", "clean" if well else "NOT clean")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
