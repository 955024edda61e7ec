"""Tests of engine/device/."""
