"""Tests of engine/config/."""
