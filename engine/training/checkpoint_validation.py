"""Validation of the metadata in a checkpoint, which may come from an untrusted source."""

from collections.abc import Callable, Mapping
from typing import Any

from engine.device.amp import DTYPES
from engine.device.device import MEMORY_FORMATS
from models.layers import SMALLEST_INPUT

LARGEST = 8192  # pixels a side; data/folder.py decodes no larger image

MOST_COUNTED = 2**53  # steps or images: a float represents all integers up to here

SHOWN = 100  # characters of an invalid value in the message

# (value, all metadata) -> whether the value is valid. A rule may rely on the rules above it.
Rule = Callable[[Any, Mapping[str, Any]], bool]


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether this is an int from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_image_shape(value: Any) -> bool:
    """Whether this is a valid image shape [C, H, W]."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    return is_whole(value[0], 1, LARGEST) and all(is_whole(side, SMALLEST_INPUT, LARGEST) for side in value[1:])


def are_names(value: Any) -> bool:
    """Whether these are valid class names: distinct strings that can be encoded as UTF-8."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    return len(set(value)) == len(value) > 0 and not any("\ud800" <= sign <= "\udfff" for sign in "".join(value))


def is_one_a_channel(value: Any, said: Mapping[str, Any], least: float) -> bool:
    """Whether this is a number from `least` to 1 for each channel of the images."""
    if not isinstance(value, list) or len(value) != said["image_shape"][0]:
        return False
    are_numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
    return are_numbers and all(least <= number <= 1 for number in value)  # false for nan


def is_one_of(value: Any, names: Mapping[str, Any]) -> bool:
    """Whether this is one of `names`."""
    return isinstance(value, str) and value in names


RULES: dict[str, tuple[str, Rule]] = {
    "image_shape": (
        f"channels, height and width, from {SMALLEST_INPUT} to {LARGEST} pixels each way",
        lambda value, said: is_image_shape(value),
    ),
    "classes": ("a list of distinct names", lambda value, said: are_names(value)),
    "mean": ("a number from 0 to 1 for each channel", lambda value, said: is_one_a_channel(value, said, 0)),
    "std": ("a number from 0.001 to 1 for each channel", lambda value, said: is_one_a_channel(value, said, 0.001)),
    "precision": (f"one of {', '.join(DTYPES)}", lambda value, said: is_one_of(value, DTYPES)),
    "memory_format": (f"one of {', '.join(MEMORY_FORMATS)}", lambda value, said: is_one_of(value, MEMORY_FORMATS)),
    "steps_per_epoch": ("a whole number from 1", lambda value, said: is_whole(value, 1, MOST_COUNTED)),
    "step": ("a whole number from 0", lambda value, said: is_whole(value, 0, MOST_COUNTED)),
    "best_epoch": ("a whole number from 0", lambda value, said: is_whole(value, 0, MOST_COUNTED)),
}


def invalid_field(said: Mapping[str, Any]) -> str | None:
    """A one-line description of the first invalid field; None if all fields are valid.

    Missing fields are allowed, unless another field's rule needs them: then KeyError is raised.
    """
    for name, (wanted, is_valid) in RULES.items():
        if name in said and not is_valid(said[name], said):
            return f"{name}={' '.join(repr(said[name]).split())[:SHOWN]}: {wanted} was expected"
    return None
