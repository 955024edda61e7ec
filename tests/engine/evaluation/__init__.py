"""Tests of engine/evaluation/."""
