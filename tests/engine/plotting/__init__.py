"""Tests of engine/plotting/."""
