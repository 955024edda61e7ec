"""What a file says of the network that it holds, held to what can be: anybody may have written it."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.device.device import MEMORY_FORMATS
from engine.device.precision import DTYPES
from models.layers import SMALLEST_INPUT

LARGEST = 8192  # pixels a side, of an image as large as the largest photograph that data/folder.py decodes

MOST_COUNTED = 2**53  # of steps and images: up to here a float counts without gaps

SHOWN = 100  # characters of a claim that is refused

# Given a claim and all that the file says, whether it can be. Those further down may rely on those above them.
Rule = Callable[[Any, Mapping[str, Any]], bool]


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether this is a whole number from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_image_shape(value: Any) -> bool:
    """Whether images can have this shape, [C, H, W]."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    return is_whole(value[0], 1, LARGEST) and all(is_whole(side, SMALLEST_INPUT, LARGEST) for side in value[1:])


def are_names(value: Any) -> bool:
    """Whether classes can have these names: text that can be written as UTF-8, each another one."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    return len(set(value)) == len(value) > 0 and not any("\ud800" <= sign <= "\udfff" for sign in "".join(value))


def is_one_a_channel(value: Any, said: Mapping[str, Any], least: float) -> bool:
    """Whether this is a number from `least` to 1 for each channel of the images."""
    if not isinstance(value, list) or len(value) != said["image_shape"][0]:
        return False
    are_numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
    return are_numbers and all(least <= number <= 1 for number in value)  # which nan is not


def is_one_of(value: Any, names: Mapping[str, Any]) -> bool:
    """Whether this is one of some names."""
    return isinstance(value, str) and value in names


RULES: dict[str, tuple[str, Rule]] = {
    "image_shape": (
        f"channels, height and width, from {SMALLEST_INPUT} to {LARGEST} pixels each way",
        lambda value, said: is_image_shape(value),
    ),
    "classes": ("a list of names, each another one", lambda value, said: are_names(value)),
    "mean": ("a number from 0 to 1 for each channel", lambda value, said: is_one_a_channel(value, said, 0)),
    "std": ("a number from 0.001 to 1 for each channel", lambda value, said: is_one_a_channel(value, said, 0.001)),
    "precision": (f"one of {', '.join(DTYPES)}", lambda value, said: is_one_of(value, DTYPES)),
    "memory_format": (f"one of {', '.join(MEMORY_FORMATS)}", lambda value, said: is_one_of(value, MEMORY_FORMATS)),
    "steps_per_epoch": ("a whole number from 1", lambda value, said: is_whole(value, 1, MOST_COUNTED)),
    "step": ("a whole number from 0", lambda value, said: is_whole(value, 0, MOST_COUNTED)),
    "best_epoch": ("a whole number from 0", lambda value, said: is_whole(value, 0, MOST_COUNTED)),
}


def impossible(said: Mapping[str, Any]) -> str | None:
    """The first claim that cannot be, in words of one line; None if all of those that are made can.

    What a file does not say is missed by whoever needs it: one rule needs another's claim, and raises KeyError.
    """
    for name, (wanted, can_be) in RULES.items():
        if name in said and not can_be(said[name], said):
            return f"{name}={' '.join(repr(said[name]).split())[:SHOWN]}: {wanted} was expected"
    return None
