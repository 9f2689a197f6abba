"""``python -m fastws`` is the command ``fastws``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
