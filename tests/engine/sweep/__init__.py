"""Tests of engine/sweep/."""
