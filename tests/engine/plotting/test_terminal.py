"""Curves in the terminal are where their axes say, and fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plotting.terminal import BRAILLE, Axis, chart, printable, side_by_side


def drawn(line: str) -> list[int]:
    """The columns of a line of text that hold a part of the curve."""
    return [column for column, letter in enumerate(line) if BRAILLE < ord(letter) < BRAILLE + 256]


def test_a_straight_line():
    points = [(0, 0), (10, 1)]
    assert chart(points, x=Axis(0, 10), y=Axis(0, 1), width=21, height=4, title="rise") == [
        "    rise",
        "  1 ┤            ⣀⠤⠒⠉",
        "    │        ⣀⠤⠒⠉",
        "0.5 ┤    ⣀⠤⠒⠉",
        "  0 ┤⣀⠤⠒⠉",
        "    └┴───────┴──────┴",
        "     0       5     10",
    ]


def test_a_jump_is_a_vertical_line():
    lines = chart([(0, 1), (5, 1), (5, 0), (10, 0)], x=Axis(0, 10), y=Axis(0, 1), width=30, height=5)
    middles = [drawn(line) for line in lines[1:4]]
    assert middles[0] == middles[1] == middles[2]
    assert len(middles[0]) == 1
    assert len(drawn(lines[0])) == pytest.approx(len(drawn(lines[4])), abs=1)


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    width=st.integers(20, 90),
    height=st.integers(2, 20),
    title=st.text(alphabet="abc", max_size=100),
)
def test_a_chart_keeps_to_its_size(values, width, height, title):
    x, y = Axis(0, len(values)), Axis(min(values), max(values))
    lines = chart(list(enumerate(values)), x=x, y=y, width=width, height=height, title=title)
    assert len(lines) == height + 2 + bool(title)
    assert max(map(len, lines)) <= width
    assert any(drawn(line) for line in lines)


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6), most=st.integers(1, 12))
def test_ticks_are_few_and_lie_within(low, size, most):
    ticks = Axis(low, low + size).ticks(most)
    assert len(ticks) <= most + 1
    assert all(low - 1e-6 * size - 1e-9 <= tick <= low + size * (1 + 1e-6) + 1e-9 for tick in ticks)


def test_ticks_are_round():
    assert Axis(0, 200).ticks(5) == [0, 50, 100, 150, 200]
    assert Axis(0, 0.1).ticks(8) == [0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert Axis(1e-3, 10, log=True).ticks(5) == pytest.approx([1e-3, 1e-2, 0.1, 1, 10])
    assert Axis(2e-6, 10, log=True).ticks(3) == pytest.approx([1e-5, 1e-2, 10])
    assert Axis(3, 3).ticks(4) == [3]


def test_a_decade_is_as_long_as_the_next():
    axis = Axis(1e-4, 1, log=True)
    assert [axis.share(value) for value in (1e-4, 1e-2, 1, 100, 0)] == pytest.approx([0, 0.5, 1, 1, 0])


def test_charts_beside_each_other_do_not_touch():
    charts = [["ab", "c"], ["def"]]
    assert side_by_side(charts, width=10) == ["ab   def", "c"]


def test_a_terminal_without_braille_gets_ascii():
    lines = chart([(0, 1), (9, 0)], x=Axis(0, 9), y=Axis(0, 1), width=30, height=3, title="a" * 40)
    plain = printable("\n".join(lines), "ascii")
    assert plain.isascii()
    assert "*" in plain
    assert [len(line) for line in plain.split("\n")] == [len(line) for line in lines]
    assert printable("\n".join(lines), "utf-8") == "\n".join(lines)
