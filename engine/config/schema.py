"""The type, range and description of each key, read from its comment in the configuration file.

    lr: 0.1      # (float > 0, <= 1000) learning rate, before the schedule's factor

The parentheses hold the key's type and range, followed by its description. The forms:

    int, float, bool, text       with bounds: float >= 0, < 1
    int >= 1, odd                or: multiple of 2
    float > 0, <= largest        a bound that is another key's value: a sibling, or a full dotted name
    list of int >= 1             a list with members of this form
    list of 2 float              a list of this length; list of 1 to 6 int
    list of cat or dog           a list, each member one of these
    directory                    an existing directory
    path                         a directory that exists or can be created
    null, auto, fp32, 10         a literal word or number
    int >= 1 | null              alternatives
"""

import math
import operator
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from engine.run.errors import CommandError

COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "multiple of": lambda value, unit: unit == 0 or value % unit == 0,
}

TYPES = {"int": int, "float": (int, float), "bool": bool, "text": str, "directory": str, "path": str}

TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "some text",
    "directory": "a directory",
    "path": "a directory",
}

COMMENT = re.compile(r"#\s*\(([^)]*)\)\s*(.*)")

REFERENCE = re.compile(r"\$\{([\w.]+)\}")

LIST = re.compile(r"list of (?:(\d+)(?: to (\d+))? )?(.+)")

BOUND = re.compile(r"(>=|<=|>|<|multiple of)\s*([\w.+-]+)")


def nothing(name: str) -> None:
    """The default lookup of other keys: there are none."""


@dataclass(frozen=True)
class Key:
    """The form and description of a key; both are empty for a key without a comment.

    `follows` is the key that this one interpolates, `${...}`, if any.
    """

    form: str = ""
    description: str = ""
    follows: str = ""

    def mistake(self, value: Any, others: Callable[[str], Any] = nothing) -> str | None:
        """Why `value` (plain data) is invalid, as a message after "key=value: "; None if it is valid.

        `others` looks up another key that a bound names; if its value is not numeric, the bound is ignored.
        """
        alternatives = [alternative.strip() for alternative in self.form.split("|")]
        if not self.form or any(_fits(alternative, value, others) for alternative in alternatives):
            return None
        if isinstance(value, str) and value and alternatives[0] in ("directory", "path"):
            return obstacle(value) if alternatives[0] == "path" else "no such directory"
        return f"must be {' or '.join(_in_words(alternative, others) for alternative in alternatives)}"


def _in_words(form: str, others: Callable[[str], Any]) -> str:
    """One alternative in words."""
    if match := LIST.fullmatch(form):
        least, most, member = match.groups()
        count = f" of {least}{f' to {most}' if most else ''}" if least else ""
        return f"a list{count}, each member {_in_words(member, others)}"
    kind, bounds = _parts(form)
    for _, written, limit in _limits(bounds, others):
        if limit is not None and _number(written) is None:
            bounds = bounds.replace(written, f"{written} ({limit})")
    return f"{TYPE_NAMES.get(kind, kind)}{',' if bounds.startswith(('odd', 'multiple')) else ''} {bounds}".strip()


def _fits(form: str, value: Any, others: Callable[[str], Any]) -> bool:
    """Whether a plain value matches one alternative."""
    if match := LIST.fullmatch(form):
        least, most, member = match.groups()
        if not isinstance(value, list) or (least and not int(least) <= len(value) <= int(most or least)):
            return False
        return all(any(_fits(one, entry, others) for one in member.split(" or ")) for entry in value)
    kind, bounds = _parts(form)
    if kind not in TYPES:
        word = _word(form)
        return type(value) is type(word) and value == word
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        return False
    if kind in ("text", "directory", "path") and not value:
        return False
    if kind == "directory":
        return os.path.isdir(os.path.expanduser(value))
    if kind == "path":
        return obstacle(value) is None
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if "odd" in bounds and value % 2 == 0:
        return False
    return all(limit is None or COMPARISONS[sign](value, limit) for sign, _, limit in _limits(bounds, others))


def _word(text: str) -> Any:
    """A literal parsed as YAML, for comparison with parsed values."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _parts(form: str) -> tuple[str, str]:
    """The type, or the literal, of one alternative, and its bounds."""
    kind, _, bounds = form.partition(" ")
    return kind.rstrip(","), bounds


def _limits(bounds: str, others: Callable[[str], Any]) -> Iterator[tuple[str, str, float | None]]:
    """Each bound as (comparison, limit as written, limit); None if another key's value is not numeric."""
    for sign, written in BOUND.findall(bounds):
        written = written.rstrip(".")
        limit = others(written) if _number(written) is None else _number(written)
        is_limit = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        yield sign, written, limit if is_limit else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def obstacle(path: str) -> str | None:
    """Why `path` cannot be a directory; None if it exists or can be created."""
    directory = Path(os.path.expanduser(path))
    if directory.parts[:1] and directory.parts[0].startswith("~"):
        return f"there is no user {directory.parts[0][1:]}"
    for nearest in (directory, *directory.parents):
        try:
            mode = os.stat(nearest).st_mode
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(nearest):
                return f"{nearest} is a broken link"
            continue
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)
        if not stat.S_ISDIR(mode):
            return f"{nearest} is not a directory"
        if nearest != directory and not os.access(nearest, os.W_OK | os.X_OK):
            return f"{nearest} cannot be written to"
        return None
    return None


def read_keys(text: str) -> Iterator[tuple[tuple[str, ...], Key | None]]:
    """Every key of a YAML text as (path, Key), in order; None for a key with nested keys.

    Raises ValueError if the text is not a mapping.
    """
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)

    def walk(mapping: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Key | None]]:
        for key, value in mapping.value:
            here = (*path, str(key.value))
            if isinstance(value, yaml.MappingNode):
                yield here, None
                yield from walk(value, here)
                continue
            # The comment follows a value on the key's own line; for a list below, it follows the key.
            last = value.end_mark if value.start_mark.line == key.start_mark.line else key.end_mark
            comment = COMMENT.search(lines[last.line], last.column) if last.line < len(lines) else None
            reference = REFERENCE.fullmatch(value.value) if isinstance(value, yaml.ScalarNode) else None
            form, description = comment.groups() if comment else ("", "")
            yield here, Key(form, description, reference[1] if reference else "")

    if not isinstance(root, yaml.MappingNode):
        raise ValueError("not a mapping of keys to values")
    yield from walk(root, ())


def keys_of_files(config_name: str, overrides: list[str]) -> Iterator[tuple[str, str, Key | None]]:
    """Every key of the config files that the overrides select, as (file in conf/, dotted name, Key).

    None stands for a key with nested keys.
    """
    loader = GlobalHydra.instance().config_loader()
    directories = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    with composing():
        defaults = loader.compute_defaults_list(config_name, overrides, RunMode.RUN).defaults
    for default in defaults:
        files = [directory / f"{default.config_path}.yaml" for directory in directories]
        files = [file for file in files if file.is_file()]  # Hydra's own have none
        if len(files) > 1:
            raise CommandError(f"{files[1]}: conf/ already has a file of that name")
        package = [part for part in (default.package or "").split(".") if part not in ("", "_global_")]
        for path, key in keys_of_file(files[0]) if files else ():
            if path != ("defaults",):
                yield default.config_path, ".".join([*package, *path]), key


def keys_of_file(file: Path) -> list[tuple[tuple[str, ...], Key | None]]:
    """The keys of a file. Raises CommandError if it cannot be read or is not a mapping."""
    try:
        return keys_of_text(file.read_text())
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise CommandError(f"{file}: {error}") from None


@cache
def keys_of_text(text: str) -> list[tuple[tuple[str, ...], Key | None]]:
    """The keys of a file's text, cached since the jobs of a sweep share most files."""
    return list(read_keys(text))


@contextmanager
def composing() -> Iterator[None]:
    """Convert Hydra's unexpected errors to CommandError."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"the configuration cannot be composed: {error}") from error


def known_keys(found: Iterable[tuple[str, str, Key | None]]) -> dict[str, Key | None]:
    """Each Key by its dotted name; later files win, as in Hydra, and a recipe adds no keys.

    A file that overrides an inherited key need not repeat its comment. A key with a null default may get nested keys
    from a config group option.
    """
    keys: dict[str, Key | None] = {}
    for file, name, key in found:
        if keys.get(parent := name.rpartition(".")[0]):
            keys[parent] = None
        inherited = name in keys and key is not None and not key.form and not key.follows
        if not inherited and not file.startswith("recipe/"):
            keys[name] = key
    return keys
