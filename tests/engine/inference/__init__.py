"""Tests of engine/inference/."""
