"""Faults done to runs and spoilt files given to readers, counted: longer than a test, by hand."""
