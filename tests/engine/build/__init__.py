"""Tests of engine/build/."""
