"""Benchmarks: `benchmarks.loops` for whole loops against peers, ``benchmarks/core`` for the core alone."""
