"""Benchmarks: each module is a command that prints a table of ratios, `python -m bench.<name>`.

Two ways of doing the same are timed in turns in one run, so that a busy machine slows both, and their
medians are compared. What was measured where, and what was tried and did not help: bench/README.md.
"""
