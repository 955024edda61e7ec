"""Tests of schedulers/."""
