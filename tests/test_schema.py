"""What the comments beside the keys say is what is enforced."""

import math

import pytest
from conftest import CONF

from engine.schema import Key, read_keys


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("int >= 1", [1, 7], [0, -1, 1.5, "1", True, None]),
        ("float > 0, <= 1", [1, 0.5, 1e-9], [0, 1.0001, "0.5", math.nan, math.inf, False]),
        ("bool", [True, False], [0, 1, "true", None]),
        ("text", ["a b"], ["", 1, None, True, ["a"]]),
        ("A | B", ["A", "B"], ["C", "a", 1, None]),
        ("10 | 100", [10, 100], [50, "ten", "10", 10.5]),
        ("int >= 1 | null", [None, 3], [0, "null ", 2.5]),
        ("int >= 0 | float > 0, < 1", [0, 5000, 0.1], [1.5, -1, -0.5]),
        ("list of int >= 1", [[], [1, 2]], [[0], [1, "2"], 1, None]),
        ("list of 2 int", [[1, 2]], [[], [1], [1, 2, 3], [1, "2"]]),
        ("list of float > 0 | null", [None, [0.5]], [[0.0], "0.5"]),
    ],
)
def test_forms(form, good, bad):
    key = Key(form)
    assert [value for value in good if key.mistake(value)] == []
    assert [value for value in bad if not key.mistake(value)] == []


def test_a_directory_must_exist(tmp_path):
    key = Key("directory")
    assert key.mistake(str(tmp_path)) is None
    assert key.mistake(str(tmp_path / "nowhere")) == "no such directory"
    assert key.mistake(3) == "must be a directory"


def test_a_mistake_is_said_in_words():
    assert Key("int >= 0 | float > 0, < 1").mistake("x") == "must be a whole number >= 0 or a number > 0, < 1"
    assert Key("list of int >= 1").mistake(3) == "must be a list, each member a whole number >= 1"


def test_comments_are_found_wherever_the_value_stands():
    text = """
a: 1  # (int) one
b:    # a section
  c: "# (no) comment"  # (text) quoted
  d: [1,  # inside
      2]  # (list of int) at the end of the value
  e:  # (list of text) below
    - x
    - y
f: ${b.c}
g:
  not: commented
"""
    found = dict(read_keys(text))
    assert found["a",] == Key("int", "one")
    assert found["b",] is None
    assert found["b", "c"] == Key("text", "quoted")
    assert found["b", "e"] == Key("list of text", "below")
    assert found["f",] == Key(follows="b.c")
    assert found["g", "not"] == Key()


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_is_commented(file):
    """Except where a file inherits the key from the one its defaults list names, and says only another value."""
    keys = list(read_keys(file.read_text()))
    inherits = any(path == ("defaults",) for path, _ in keys)
    for path, key in keys:
        if key is None or path[0] in {"defaults", "hydra"} or path[-1].startswith("_") or key.follows:
            continue
        assert key.form or (inherits and file.parent != CONF), f"{file}: {'.'.join(path)} has no comment (type) ..."
        assert key.description or not key.form, f"{file}: {'.'.join(path)} is not described"
