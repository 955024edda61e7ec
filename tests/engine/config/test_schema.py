"""What the comments beside the keys say is what is enforced."""

import math
import re

import pytest

from engine.config.schema import BOUND, Key, read_keys
from tests.support.runs import CONF


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
        ("list of 1 to 2 int > 0", [[1], [1, 2]], [[], [1, 2, 3], [0]]),
        ("int >= 1, odd", [1, 3], [0, 2, 4, -1]),
        ("int >= 2, multiple of 2", [2, 4], [0, 3, 1]),
        ("see [1", ["see [1"], ["x", 1]),  # no form at all, but somebody may write it
        ("int >= 1x", [3], ["x"]),
        ("list of int >= 1, odd", [[1, 3], []], [[2], [1, 2]]),
        ("list of 1 to 2 cat or dog", [["cat"], ["dog", "cat"]], [[], ["cow"], ["cat or dog"], "cat"]),
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


def test_a_place_exists_or_can_be_made(tmp_path, monkeypatch):
    key = Key("path | null")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for good in (tmp_path, tmp_path / "a" / "b", "a/b", "~", None):
        assert key.mistake(good and str(good)) is None
    monkeypatch.chdir(tmp_path)
    assert key.mistake("file") == key.mistake("file/a/b") == "file is not a directory"
    assert key.mistake("link/a") == "link is a broken link"
    assert key.mistake("~nobody-of-that-name/a") == "there is no user nobody-of-that-name"
    assert key.mistake("a" * 300) == "File name too long"
    assert key.mistake("a\0b") == "embedded null byte"
    assert key.mistake("") == key.mistake(3) == "must be a directory or null"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert key.mistake("a/b") == ". cannot be written to"


def test_a_bound_can_be_the_value_of_another_key():
    others = {"largest": 0.4, "trainer.max_epochs": 20, "auto": "auto", "yes": True}
    assert Key("float > 0, <= largest").mistake(0.4, others.get) is None
    assert Key("float > 0, <= largest").mistake(0.5, others.get) == "must be a number > 0, <= largest (0.4)"
    assert Key("int >= 0, multiple of groups").mistake(3, {"groups": 3}.get) is None
    said = Key("int >= 0, multiple of groups").mistake(4, {"groups": 3}.get)
    assert said == "must be a whole number >= 0, multiple of groups (3)"
    said = Key("list of float < trainer.max_epochs").mistake([19, 20], others.get)
    assert said == "must be a list, each member a number < trainer.max_epochs (20)"
    for none in ("nothing", "auto", "yes"):  # only a number is a bound
        assert Key(f"float > 0, <= {none}").mistake(1e9, others.get) is None
        assert Key(f"float > 0, <= {none}").mistake(0, others.get) == f"must be a number > 0, <= {none}"


def test_a_mistake_is_said_in_words():
    assert Key("int >= 0 | float > 0, < 1").mistake("x") == "must be a whole number >= 0 or a number > 0, < 1"
    assert Key("list of int >= 1").mistake(3) == "must be a list, each member a whole number >= 1"
    assert Key("list of 1 to 6 int, odd").mistake(3) == "must be a list of 1 to 6, each member a whole number, odd"


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
        if (CONF / path[-1]).is_dir():
            continue  # a group, for an option of it
        assert key.form or (inherits and file.parent != CONF), f"{file}: {'.'.join(path)} has no comment (type) ..."
        assert key.description or not key.form, f"{file}: {'.'.join(path)} is not described"


@pytest.mark.parametrize("text", ["", "# nothing", "- a", "text", "3"])
def test_what_is_no_list_of_keys(text):
    with pytest.raises(ValueError, match="not a mapping of keys to values"):
        list(read_keys(text))


def test_every_number_has_an_end_on_both_sides():
    """Beyond it lies what overflows, or what nobody has the memory or the time for."""
    for file in CONF.rglob("*.yaml"):
        for path, key in read_keys(file.read_text()):
            for form in key.form.split("|") if key else ():
                if re.match(r"(list of [\d to]*)?(int|float)\b", form.strip()):
                    assert ">" in form, f"{file}: {path}"
                    assert "<" in form, f"{file}: {path}"


def test_a_bound_names_a_key_that_there_is():
    """Beside the key, or by its whole name in conf/config.yaml; `read_keys` of a misspelt one would bound nothing."""
    settings = {".".join(path) for path, _ in read_keys((CONF / "config.yaml").read_text())}
    for file in CONF.rglob("*.yaml"):
        keys = dict(read_keys(file.read_text()))
        for path, key in keys.items():
            for _, limit in BOUND.findall(key.form if key else ""):
                if limit[0].isalpha():
                    assert limit in settings if "." in limit else (*path[:-1], limit) in keys, f"{file}: {path}"


ATOM = rf"(?:int|float|bool|text|directory|path)(?:(?:,? |, ){BOUND.pattern.replace('(', '(?:')})*(?:, odd)?"
LITERAL = r"-?\w+"
FORM = re.compile(rf"{ATOM}|list of (?:\d+(?: to \d+)? )?(?:{ATOM}|{LITERAL}(?: or {LITERAL})+)")


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_the_type_of_a_key_is_of_known_words(file):
    """A word that is misspelt would be a literal that happens to match nothing: `integer`, `flaot >= 0`."""
    for path, key in read_keys(file.read_text()):
        if key is None or not key.form:
            continue
        alternatives = key.form.split(" | ")
        literals = [one for one in alternatives if not FORM.fullmatch(one)]
        assert all(re.fullmatch(LITERAL, one) for one in literals), f"{'.'.join(path)}: ({key.form})"
        types = len(alternatives) - len(literals)
        members = {word for one in alternatives if " or " in one for word in one.split()}
        allowed = {"null", "auto", "-1", *members} if types else set(literals)
        assert set(literals) <= allowed, f"{'.'.join(path)}: ({key.form})"
        assert types or len(literals) > 1 or literals == ["null"], f"{'.'.join(path)}: ({key.form})"
