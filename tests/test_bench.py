"""The benchmarks run and print their tables; what the figures are is no test's business."""

import re

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("bench.augment", "--rounds", "1", "--images", "256", "--workers", "1", "crop, flip"), 1),
        (("bench.standard", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.bare", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.ranks", "--rounds", "1", "--seconds", "0.05", "lenet5"), 1),
        (("bench.roofline", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.start", "--rounds", "1", "--images", "200", "lenet5"), 2),
    ],
    ids=["augment", "standard", "bare", "ranks", "roofline", "start"],
)
def test_a_benchmark_prints_its_table(command, arguments, rows):
    ended = command("-m", *arguments, cwd=ROOT, PYTHONWARNINGS="default")
    assert ended.returncode == 0, ended.stderr
    table = re.findall(r"^\|.*\|$", ended.stdout, re.MULTILINE)
    assert len(table) == 2 + rows
    assert len({row.count("|") for row in table}) == 1
    for row in table[2:]:
        assert all(float(figure.replace(",", "")) > 0 for figure in re.findall(r"\| ([\d.,]+) (?=\|)", row))
