"""Tests of engine/distributed/."""
