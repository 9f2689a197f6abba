"""Builds the compiled core. Metadata is in pyproject.toml.

Environment:
    FASTWS_PURE=1: install without the compiled core.
    FASTWS_SIMDJSON_DIR: a folder with simdjson.h and simdjson.cpp, instead of the build requirement pysimdjson's.
    FASTWS_SANITIZE: for development: a value for the compiler's -fsanitize=, such as address,undefined.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

MODULES = (
    "_segment",
    "_batch",
    "_admission",
    "_state",
    "_decoding",
    "_decoder",
    "_encoder",
    "_iterator",
    "_intake",
    "_coroutine",
    "_sender",
    "_receiver",
)
if sys.platform != "win32":
    MODULES += ("_fed", "_pumped", "_pump")


def simdjson() -> Path:
    """Copy simdjson's two files to an ignored folder of the build and return it."""
    given = os.environ.get("FASTWS_SIMDJSON_DIR")
    if given:
        source = Path(given)
    else:
        # Found, not imported: only its sources are wanted.
        spec = importlib.util.find_spec("simdjson")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("fastws: the build requirement pysimdjson isn't installed; or set FASTWS_SIMDJSON_DIR")
        source = Path(next(iter(spec.submodule_search_locations)))
    target = Path("build") / "simdjson"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("simdjson.h", "simdjson.cpp"):
        if not (source / name).is_file():
            raise SystemExit(f"fastws: {source} has no {name}")
        if not (target / name).is_file() or (target / name).read_bytes() != (source / name).read_bytes():
            shutil.copyfile(source / name, target / name)
    return target


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    include = simdjson()
    if sys.platform == "win32":
        compile_args = ["/O2", "/std:c++17", "/EHsc"]
        link_args, libraries = [], ["zlib"]
    else:
        compile_args = ["-O3", "-std=c++17", "-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt", "-g1"]
        link_args, libraries = [], ["z"]
    sanitize = os.environ.get("FASTWS_SANITIZE")
    if sanitize:
        compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-O1", "-g"]
        link_args += [f"-fsanitize={sanitize}"]
    depends = glob("src_cython/**/*.[ph]*", recursive=True)
    modules = [
        Extension(
            f"fastws.{name}",
            [f"src_cython/fastws/{name}.pyx"] + ([str(include / "simdjson.cpp")] if name == "_decoding" else []),
            include_dirs=[str(include), "src_cython/fastws"],
            libraries=libraries if name in ("_state", "_decoding", "_encoder") else [],
            language="c++",
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            depends=depends,
        )
        for name in MODULES
    ]
    return cythonize(
        modules,
        include_path=["src_cython"],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": False,
            # See src_cython/fastws/section.hpp.
            "freethreading_compatible": True,
        },
    )


pure = os.environ.get("FASTWS_PURE", "0") not in ("", "0")
setup(
    ext_modules=[] if pure else extensions(),
    # pip has no option for it.
    options={"build_ext": {"parallel": os.cpu_count()}},
)
