"""Errors, console output, signals, the run directory, and the process's rank. It does not import torch."""
