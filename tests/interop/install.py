"""Install the peers that come from npm (Node's ws, and Bun) into work/, an ignored folder.

Usage: python tests/interop/install.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"


def main() -> None:
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm isn't installed")
    WORK.mkdir(exist_ok=True)
    shutil.copy(HERE / "package.json", WORK / "package.json")
    # Bun's binary is a package of its own; no install script needs to run.
    sys.exit(subprocess.run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=WORK).returncode)


if __name__ == "__main__":
    main()
