"""What each key of a configuration file may be, read from the comment beside it.

    lr: 0.1      # (float > 0) learning rate, before the schedule's factor

The parentheses are the key's type and range, what follows is its description: stated once, where
the value is, in the words that a user reads. The forms:

    int, float, bool, text       with bounds: float >= 0, < 1
    list of int >= 1             a list, each member so
    list of 2 float              a list of so many
    directory                    text that names a directory that exists
    null, auto, fp32, 10         these words or numbers themselves
    int >= 1 | null              one or the other
"""

import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
TYPES = {"int": int, "float": (int, float), "bool": bool, "text": str, "directory": str}
SPOKEN = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "some text",
    "directory": "a directory",
}
COMMENT = re.compile(r"#\s*\(([^)]*)\)\s*(.*)")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
LIST = re.compile(r"list of (?:(\d+) )?(.+)")
BOUND = re.compile(r"(>=|<=|>|<)\s*(\S+)")


@dataclass(frozen=True)
class Key:
    """One key: what it may be, as written, and what it means; both are empty for a key without such a comment.

    `follows` names the key whose value this one takes over, `${...}`, if that is what the file says.
    """

    form: str = ""
    description: str = ""
    follows: str = ""

    def mistake(self, value: Any) -> str | None:
        """Why `value` (plain data) cannot stand here, in words that follow "key=value: "; None if it can."""
        if not self.form or any(_fits(alternative.strip(), value) for alternative in self.form.split("|")):
            return None
        if self.form.startswith("directory") and isinstance(value, str):
            return "no such directory"
        alternatives = [alternative.strip() for alternative in self.form.split("|")]
        return f"must be {' or '.join(_spoken(alternative) for alternative in alternatives)}"


def _spoken(form: str) -> str:
    """One alternative as a person would say it."""
    if match := LIST.fullmatch(form):
        count, member = match.groups()
        return f"a list{f' of {count}' if count else ''}, each member {_spoken(member)}"
    kind, _, bounds = form.partition(" ")
    return f"{SPOKEN.get(kind, kind)} {bounds}".strip()


def _fits(form: str, value: Any) -> bool:
    """Whether a plain value has the form of one alternative."""
    if match := LIST.fullmatch(form):
        count, member = match.groups()
        if not isinstance(value, list) or (count and len(value) != int(count)):
            return False
        return all(_fits(member, entry) for entry in value)
    kind, _, bounds = form.partition(" ")
    if kind not in TYPES:
        word = yaml.safe_load(form)
        return type(value) is type(word) and value == word
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        return False
    if kind in ("text", "directory") and not value:
        return False
    if kind == "directory":
        return Path(value).expanduser().is_dir()
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return all(COMPARISONS[sign](value, float(limit)) for sign, limit in BOUND.findall(bounds.replace(",", " ")))


def read_keys(text: str) -> Iterator[tuple[tuple[str, ...], Key | None]]:
    """Every key of a YAML text as (path, what it may be), top down; None stands for a key that holds further keys."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)

    def walk(mapping: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Key | None]]:
        for key, value in mapping.value:
            here = (*path, key.value)
            if isinstance(value, yaml.MappingNode):
                yield here, None
                yield from walk(value, here)
                continue
            # A value on the key's own line has its comment behind it, a list below has it behind the key.
            last = value.end_mark if value.start_mark.line == key.start_mark.line else key.end_mark
            comment = COMMENT.search(lines[last.line], last.column) if last.line < len(lines) else None
            reference = REFERENCE.fullmatch(value.value) if isinstance(value, yaml.ScalarNode) else None
            form, description = comment.groups() if comment else ("", "")
            yield here, Key(form, description, reference[1] if reference else "")

    if isinstance(root, yaml.MappingNode):
        yield from walk(root, ())
