"""Create networks by name and load them from files, for hubconf.py."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch import nn

from engine.build import from_checkpoint, objects
from engine.config.combinations import check_lists
from engine.config.did_you_mean import CONF, as_typed, did_you_mean
from engine.config.schema import Key, keys_of_file, known_keys
from engine.inference.export import FACTS, facts_of, read_weights
from engine.run.errors import CommandError
from engine.run.find_checkpoint import find_checkpoint
from engine.training import checkpoint_file
from engine.training.checkpoint_file import CheckpointError, checkpoint_errors, read


def create(name: str, *, num_classes: int, in_channels: int, **settings: Any) -> nn.Module:
    """Create the network of conf/model/`name`.yaml. Raises ValueError, or TypeError for an unknown setting."""
    model = OmegaConf.merge(model_settings(name), settings)
    keys = known_keys(keys_of_model(name))
    try:
        for setting in settings:
            value, key = objects.plain(model)[setting], keys.get(f"model.{setting}")
            if key and (mistake := key.mistake(value, partial(OmegaConf.select, model))):
                raise CommandError(f"{setting}={as_typed(value)}: {mistake}")
        check_lists(model)
        return objects.network(objects.plain(model), num_classes=num_classes, in_channels=in_channels)
    except CommandError as error:
        raise ValueError(str(error)) from None


def names() -> list[str]:
    """The names of all networks: the files of conf/model/."""
    return sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def nearest(name: str) -> str:
    """A question that lists the networks of a similar name; empty if there is none."""
    return did_you_mean(name, names())


def model_settings(name: str) -> dict[str, Any]:
    """The composed configuration of conf/model/`name`.yaml. Raises ValueError for an unknown name.

    Does not use or change Hydra's global state, which a notebook may have initialised.
    """
    if name not in names():
        raise ValueError(f"{name}: there is no such network{nearest(name)}; python -m models lists them all")
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    composed = loader.load_configuration(None, overrides=[f"+model={name}"], run_mode=RunMode.RUN)
    return objects.plain(composed.model)


def keys_of_model(name: str) -> Iterator[tuple[str, str, Key | None]]:
    """The schema of each key of conf/model/`name`.yaml, inherited files first."""
    file = CONF / "model" / f"{name}.yaml"
    for inherited in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        if isinstance(inherited, str) and inherited != "_self_":
            yield from keys_of_model(inherited)
    for path, key in keys_of_file(file):
        if path != ("defaults",):
            yield f"model/{name}", ".".join(["model", *path]), key


def load(path: str | os.PathLike[str], *, weights: str | None) -> nn.Module:
    """A trained network in evaluation mode, with `classes`, `image_shape`, `mean` and `std` set. Raises RunError."""
    given = Path(os.path.expanduser(path))
    with checkpoint_errors():
        if given.suffix == ".safetensors":
            if weights is not None:
                raise CheckpointError(f"weights={weights}: {given} holds one network's")
            values, facts = read_weights(given)
        else:
            checkpoint = read(find_checkpoint(str(given)))
            _, values = checkpoint_file.chosen_weights(checkpoint, weights)
            facts = facts_of(checkpoint)
        model, *others = (facts[name] for name in FACTS)
        network = from_checkpoint.restored(
            model, values, num_classes=len(facts["classes"]), in_channels=facts["image_shape"][0]
        )
        network.classes, network.image_shape, network.mean, network.std = map(tuple, others)
    return network.eval()
