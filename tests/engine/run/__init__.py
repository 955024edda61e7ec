"""Tests of engine/run/."""
