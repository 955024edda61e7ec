"""How the benchmarks measure: in turns, so that a busy machine slows every side, and by medians."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision


def rate(run: Callable[[], int]) -> float:
    """Images a second of a function that returns how many it has seen."""
    begin = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - begin)


def interleaved(sides: Sequence[Callable[[], int]], *, rounds: int) -> list[float]:
    """The median rate of each side over some rounds, in which each runs once."""
    for side in sides:
        side()  # the first time of everything costs more
    return [
        statistics.median(rates) for rates in zip(*([rate(side) for side in sides] for _ in range(rounds)), strict=True)
    ]


def surroundings(workers: int, *, device: str = "auto") -> str:
    """The machine and the versions that a table belongs to; "cpu" where a GPU that may be there is not used."""
    names = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}"
    uses_gpu = device != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name() if uses_gpu else processor()
    return f"{name}, {workers} workers or threads, {names}"


def processor() -> str:
    """What the processor calls itself, with its family and model where Linux tells them; names are often vague."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().partition("\n\n")[0].splitlines() if told.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.processor() or platform.machine())
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return " ".join([name, f"({', '.join(numbers)})"] if numbers else [name])
