"""Parameters of which `make test` tries some and `make test-slow` the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(fast: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """The values as parameters; those that are not among the fast ones are marked slow."""
    fast = list(fast)
    return [pytest.param(value, marks=() if value in fast else pytest.mark.slow) for value in values]
