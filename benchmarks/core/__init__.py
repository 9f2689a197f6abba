"""The core alone, without sockets and loops: ``python -m pytest benchmarks/core --benchmark-only``."""
