"""Parse command-line overrides with Hydra's grammar, and expand sweeps into jobs. No torch here."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from engine.config.did_you_mean import CONF, did_you_mean, own_groups
from engine.run.errors import CommandError
from engine.run.exit import reason

MISTAKES = (
    CommandError,
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
    OSError,
    RecursionError,
)

FUNCTIONS = ("choice", "range", "interval", "glob", "tag")  # Hydra's sweep functions

CHANGING = ("sort", "shuffle", "int", "float", "str", "bool", "json_str", "extend_list")  # Hydra's other functions

MOST_JOBS = 1000  # of a sweep; checking a job takes 0.1 s

# Lists within one job, which a,b may have been meant for.
TAKE_LISTS = ("regularization", "logger", "checkpoint", "predict", "export")

LONGEST_SETTING = 4000  # characters; parsing more would take over a second


def parse(override: str) -> Override:
    """Parse one override. Raises CommandError if it is malformed."""
    if len(override) > LONGEST_SETTING:
        raise CommandError(f"{override[:40]}...: longer than {LONGEST_SETTING:,} characters")
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    try:
        (parsed,) = OverridesParser.create(config_loader=loader).parse_overrides([override])
    except (RecursionError, ValueError) as error:
        raise CommandError(f"{override}: {reason(error)}") from None
    except HydraException:
        if re.fullmatch(r"[\w.]+", override):
            raise CommandError(f"{override}: this is not KEY=VALUE{suggest(override)}") from None
        if "interval(" in override:
            raise CommandError(f"{override}: an interval takes two numbers, interval(0.01,0.5)") from None
        raise CommandError(f"{override}: {syntax_error(override)}") from None
    if not parsed.key_or_group:
        raise CommandError(f"{override}: the key is missing")
    return parsed


def syntax_error(override: str) -> str:
    """What is wrong with a malformed override."""
    key, equals, value = override.partition("=")
    if equals and value.strip(" ,") and value.endswith(","):
        return f"a value is missing after the comma; write lists without spaces, {key}=A,B"
    function = re.fullmatch(r"(\w+)\(.*\)", value)
    if function and function[1] not in (*FUNCTIONS, *CHANGING):
        return f"there is no {function[1]}(...); for a sweep there are {', '.join(FUNCTIONS)}"
    is_open = any(value.count(opening) != value.count(closing) for opening, closing in ("()", "[]", "{}"))
    brackets = ", its brackets do not match" if is_open else ""
    return f"this is not KEY=VALUE{brackets}; quote a value with special characters, 'KEY=\"VALUE\"'"


def jobs(overrides: Sequence[str], *, multirun: bool) -> Iterator[list[Override]]:
    """The overrides of each job; for a sweep, every combination of its values.

    For other sweepers, which choose combinations themselves, each value (of an interval, both ends) once, with the
    first value of all other keys.
    """
    parsed = [parse(override) for override in overrides]
    sweeper = next((override.value() for override in parsed if override.key_or_group == "hydra/sweeper"), "basic")
    choices: list[list[Override]] = []
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            key, _, values = override.input_line.partition("=")
            one_list = f"; one list is written {key}=[{values}]" if key in TAKE_LISTS else ""
            raise CommandError(f"{override.input_line}: several values are a sweep, which requires -m{one_list}")
        choices.append(sweep_values(override, sweeper) if override.is_sweep_override() else [override])
    if sweeper != "basic":
        if not multirun:
            raise CommandError(f"hydra/sweeper={sweeper}: a sweep requires -m")
        return one_by_one(choices)
    count = math.prod(map(len, choices))
    if count > MOST_JOBS:
        raise CommandError(f"this sweep has at least {count:,} jobs, more than the limit of {MOST_JOBS:,}")
    return (list(job) for job in product(*choices))


def one_by_one(choices: list[list[Override]]) -> Iterator[list[Override]]:
    """The first value of all keys, then each other value with the first of all other keys."""
    first = [values[0] for values in choices]
    yield first
    for index, (_, *others) in enumerate(choices):
        for value in others:
            yield [*first[:index], value, *first[index + 1 :]]


def sweep_values(override: Override, sweeper: Any) -> list[Override]:
    """An override for each value of a sweep override; for an interval, its two ends."""
    line, key = override.input_line, override.get_key_element()
    if override.is_interval_sweep():
        if sweeper == "basic":
            raise CommandError(f"{line}: interval(...) requires hydra/sweeper=optuna; here use a,b,c or range(...)")
        values = ends(override)
    else:
        try:
            values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        except ValueError as error:
            raise CommandError(f"{line}: {error}") from None
    if not values:
        raise CommandError(f"{line}: has no values")
    if len(values) > MOST_JOBS and sweeper != "basic":
        raise CommandError(f"{line}: more than {MOST_JOBS:,} values; use int(interval(...)) instead")
    return [parse(f"{key}={value}") for value in values]


def ends(override: Override) -> list[str]:
    """Both ends of an interval. Raises CommandError for an empty one."""
    line, low, high = override.input_line, override.value().start, override.value().end
    if not low < high:
        raise CommandError(f"{line}: the interval from {low} to {high} is empty; give the smaller end first")
    if "log" in override.value().tags and low <= 0:
        raise CommandError(f"{line}: a logarithmic interval must start above 0")
    return [str(low), str(high)]


def suggest(word: str) -> str:
    """A "did you mean" hint for the name of a config group or option without a value."""
    groups = own_groups()
    chosen = [f"{group}={word}" for group in groups if (CONF / group / f"{word}.yaml").is_file()]
    return did_you_mean(word, [], first=[f"{word}=..."] if word in groups else chosen)


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return override.partition("=")[0].lstrip("+~")
