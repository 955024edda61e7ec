"""Tests of engine/logging/."""
