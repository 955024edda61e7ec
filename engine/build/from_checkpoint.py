"""A trained network from its checkpoint, and the images it is evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from data.loader import EvalLoader, Normalize
from engine.build.auto import possible_backends, set_up
from engine.build.objects import evaluation_loader, instantiate, network, plain, splits
from engine.config.combinations import targets
from engine.config.options import CONF
from engine.device.precision import Precision
from engine.evaluation.tta import Views, as_it_is, mean_logits
from engine.training.checkpoint_file import CheckpointError, checkpoint_errors, chosen_weights
from engine.training.checkpoint_validation import MOST_COUNTED, is_whole


def restored(
    model: dict[str, Any], weights: dict[str, torch.Tensor], *, num_classes: int, in_channels: int
) -> nn.Module:
    """The network of a model group that stands in a file, with its weights.

    Raises CheckpointError if it asks for code that is not this project's, and what torch raises if they do not fit.
    """
    require_own_code(model, targets("models"))
    built = network(model, num_classes=num_classes, in_channels=in_channels)
    built.load_state_dict(weights)
    return built


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint, the name of its weights among those in there, and what it needs to be used.

    `image_shape` is that of the images it was trained on, (C, H, W); `tta` what its `views` are called.
    """

    model: nn.Module
    weights: str
    classes: Sequence[str]
    image_shape: Sequence[int]
    normalize: Normalize
    precision: Precision
    views: Views
    tta: str


def rebuild(checkpoint: dict[str, Any], *, weights: str | None, device: str, tta: DictConfig | None = None) -> Trained:
    """Rebuild the network that a checkpoint describes, without reading any images.

    `weights` are "model" or the name of an average, None those that count (`result_weights`); `tta` is an option
    of that group, None that of the training. A device that lacks the precision of the training computes in fp32.
    Raises CheckpointError if the checkpoint asks for code that is not this project's, or does not describe what it
    holds.
    """
    with checkpoint_errors():
        saved = checkpoint["config"]
        require_own_code(saved["tta"], targets("engine.evaluation.tta"))
        config = OmegaConf.create(saved)
        config.trainer.device = device
        here = possible_backends(config, checkpoint)[0]
        set_up(config, here)
        classes, image_shape = checkpoint["classes"], checkpoint["image_shape"]
        name, values = chosen_weights(checkpoint, weights)
        model = restored(saved["model"], values, num_classes=len(classes), in_channels=image_shape[0])
        model.to(here.device, memory_format=here.memory_format)
        normalize = Normalize(checkpoint["mean"], checkpoint["std"], here.device, here.memory_format)
        chosen = saved["tta"] if tta is None else plain(tta)
        views, called = instantiate(chosen), called_in("tta", chosen)
        found = Trained(model, name, classes, image_shape, normalize, here.precision, views, called)
        check_forward(found if tta is None else replace(found, views=as_it_is))
        return found


@torch.no_grad()
def check_forward(trained: Trained) -> torch.Tensor:
    """The logits [1, K] of a black image of the shape that a checkpoint says; raises what comes of settings at odds."""
    black = torch.zeros(1, *trained.image_shape, device=trained.precision.device)
    with trained.precision.autocast():
        return mean_logits(trained.model.eval(), trained.normalize(black), trained.views)


@dataclass(frozen=True)
class EvalData:
    """Images that a network was not trained on: those to test it on, and those that were held out, maybe none."""

    test: EvalLoader
    val: EvalLoader


def eval_data(
    checkpoint: dict[str, Any], trained: Trained, *, eval_batch_size: int | None, root: str | None
) -> EvalData:
    """The images that the training with this checkpoint did not use; where an argument is None, as they were then.

    Raises CheckpointError if that data set has other classes, no test images or ones of another shape, or is not
    described, and RunError if it cannot be read.
    """
    with checkpoint_errors():
        saved = checkpoint["config"]
        require_own_code(saved["dataset"], targets("data"))
        config = OmegaConf.create(saved)
        if root is not None:
            if "root" not in config.dataset:
                raise CheckpointError(f"root={root}: the data set of this run is not read from a directory")
            config.dataset.root = root
        if eval_batch_size is not None:
            config.trainer.eval_batch_size = eval_batch_size
        if not is_whole(config.trainer.eval_batch_size, 1, MOST_COUNTED):
            raise CheckpointError(f"the checkpoint says eval_batch_size={config.trainer.eval_batch_size}")
        images = splits(config)
        if list(images.classes) != trained.classes:
            raise CheckpointError(f"the data set has the classes {images.classes}, the network knows {trained.classes}")
        count, *shape = images.test.images.shape
        if shape != list(trained.image_shape) or count == 0:
            there = f"{count} test images of {shape}"
            raise CheckpointError(f"the data set has {there}, the network was trained on {trained.image_shape}")
        test, val = (evaluation_loader(config, some, trained.normalize) for some in (images.test, images.val))
        return EvalData(test, val)


def every_tta() -> dict[str, Views]:
    """Each option of the group tta by its name, within a command that Hydra runs."""
    options = GlobalHydra.instance().config_loader().get_group_options("tta")
    return {option: instantiate(compose("evaluate", [f"tta={option}"]).tta) for option in options}


def called_in(group: str, values: dict[str, Any]) -> str:
    """The option of a group that has these values or, where none does, what they build and with which values."""
    for file in sorted((CONF / group).glob("*.yaml")):
        if plain(OmegaConf.load(file)) == values:
            return file.stem
    options = ", ".join(f"{key}={value}" for key, value in values.items() if not key.startswith("_"))
    return f"{values['_target_'].rpartition('.')[2]} ({options})"


def require_own_code(group: Any, allowed: frozenset[str]) -> None:
    """Refuse a group of settings out of a file that builds nothing, names code beyond `allowed`, or has references."""
    if not isinstance(group, dict) or "_target_" not in group:
        raise CheckpointError("the checkpoint does not describe what it holds: a group of its settings builds nothing")
    refuse_foreign(group, allowed)


def refuse_foreign(node: Any, allowed: frozenset[str]) -> None:
    """Refuse settings that name code beyond `allowed`, or that refer to anything."""
    if isinstance(node, dict):
        if "_target_" in node and node["_target_"] not in allowed:
            raise CheckpointError(f"the checkpoint asks for {node['_target_']}, which conf/ does not name: refused")
        node = list(node.values())
    if isinstance(node, list):
        for member in node:
            refuse_foreign(member, allowed)
    elif isinstance(node, str) and "${" in node:
        raise CheckpointError(f"the checkpoint's configuration holds the reference {node}: refused")
