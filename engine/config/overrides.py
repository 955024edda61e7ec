"""The words of a command line as Hydra reads them: settings, and the jobs of a sweep. No torch here."""

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

from engine.config.options import CONF, did_you_mean, own_groups
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

FUNCTIONS = ("choice", "range", "interval", "glob", "tag")  # Hydra's, that make several values of one

CHANGING = ("sort", "shuffle", "int", "float", "str", "bool", "json_str", "extend_list")  # its others

MOST_JOBS = 1000  # of one sweep; to check a job takes a tenth of a second

# Lists within one job, which a,b may have been meant for.
TAKE_LISTS = ("regularization", "logger", "checkpoint", "predict", "export")

LONGEST_SETTING = 4000  # characters; to read more would take longer than a second


def parse(override: str) -> Override:
    """One argument as Hydra reads it. Raises CommandError for what it cannot read."""
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
            raise CommandError(f"{override}: this is not KEY=VALUE{meant(override)}") from None
        if "interval(" in override:
            raise CommandError(f"{override}: an interval lies between two numbers, interval(0.01,0.5)") from None
        raise CommandError(f"{override}: {unreadable(override)}") from None
    if not parsed.key_or_group:
        raise CommandError(f"{override}: the key is missing")
    return parsed


def unreadable(override: str) -> str:
    """What is wrong with an argument that is no setting."""
    key, equals, value = override.partition("=")
    if equals and value.strip(" ,") and value.endswith(","):
        return f"a value is missing behind the comma; a list has no blanks, {key}=A,B"
    function = re.fullmatch(r"(\w+)\(.*\)", value)
    if function and function[1] not in (*FUNCTIONS, *CHANGING):
        return f"there is no {function[1]}(...); for a sweep there are {', '.join(FUNCTIONS)}"
    is_open = any(value.count(opening) != value.count(closing) for opening, closing in ("()", "[]", "{}"))
    brackets = ", its brackets do not match" if is_open else ""
    return f"this is not KEY=VALUE{brackets}; a value with special characters wants quotes of its own, 'KEY=\"VALUE\"'"


def jobs(overrides: Sequence[str], *, multirun: bool) -> Iterator[list[Override]]:
    """The overrides of each job: of a sweep, every combination of its values.

    Where a sweeper chooses from them, each value (of a number, both ends) once, beside the first of all others.
    """
    parsed = [parse(override) for override in overrides]
    sweeper = next((override.value() for override in parsed if override.key_or_group == "hydra/sweeper"), "basic")
    choices: list[list[Override]] = []
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            key, _, values = override.input_line.partition("=")
            one_list = f"; one list is written {key}=[{values}]" if key in TAKE_LISTS else ""
            raise CommandError(f"{override.input_line}: several values make a sweep, which wants -m{one_list}")
        choices.append(swept(override, sweeper) if override.is_sweep_override() else [override])
    if sweeper != "basic":
        if not multirun:
            raise CommandError(f"hydra/sweeper={sweeper}: this makes a sweep, which wants -m")
        return one_by_one(choices)
    count = math.prod(map(len, choices))
    if count > MOST_JOBS:
        raise CommandError(f"this sweep has {count:,} jobs or more, and {MOST_JOBS:,} is the most")
    return (list(job) for job in product(*choices))


def one_by_one(choices: list[list[Override]]) -> Iterator[list[Override]]:
    """The first of all choices, and each of the others beside the first of the rest."""
    first = [values[0] for values in choices]
    yield first
    for place, (_, *others) in enumerate(choices):
        for value in others:
            yield [*first[:place], value, *first[place + 1 :]]


def swept(override: Override, sweeper: Any) -> list[Override]:
    """An override of a sweep for each of its values; of numbers that another sweeper chooses from, the ends."""
    line, key = override.input_line, override.get_key_element()
    if override.is_interval_sweep():
        if sweeper == "basic":
            chooser = "a sweeper that chooses in it, hydra/sweeper=optuna"
            raise CommandError(f"{line}: an interval is for {chooser}; here a,b,c or range(...)")
        values = ends(override)
    else:
        try:
            values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        except ValueError as error:
            raise CommandError(f"{line}: {error}") from None
    if not values:
        raise CommandError(f"{line}: there is no value in it")
    if len(values) > MOST_JOBS and sweeper != "basic":
        raise CommandError(f"{line}: more than {MOST_JOBS:,} values; int(interval(...)) has any number of them")
    return [parse(f"{key}={value}") for value in values]


def ends(override: Override) -> list[str]:
    """Both ends of an interval. Raises CommandError where there is nothing between them."""
    line, low, high = override.input_line, override.value().start, override.value().end
    if not low < high:
        raise CommandError(f"{line}: there is nothing from {low} to {high}; the smaller end comes first")
    if "log" in override.value().tags and low <= 0:
        raise CommandError(f"{line}: a logarithmic interval begins above 0")
    return [str(low), str(high)]


def meant(word: str) -> str:
    """What somebody may have meant who typed the name of a group or of an option alone."""
    groups = own_groups()
    chosen = [f"{group}={word}" for group in groups if (CONF / group / f"{word}.yaml").is_file()]
    return did_you_mean(word, [], first=[f"{word}=..."] if word in groups else chosen)


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return override.partition("=")[0].lstrip("+~")
