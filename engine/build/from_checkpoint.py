"""Rebuild a trained model from its checkpoint, and the data it is evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from data.loader import EvalLoader, Normalize
from engine.build.autotune import possible_backends, set_up
from engine.build.objects import evaluation_loader, instantiate, network, plain, splits
from engine.config.combinations import targets
from engine.config.did_you_mean import CONF
from engine.device.amp import Precision
from engine.evaluation.tta import Views, as_it_is, mean_logits
from engine.training.checkpoint_file import CheckpointError, checkpoint_errors, chosen_weights
from engine.training.checkpoint_validation import MOST_COUNTED, is_whole


def restored(
    model: dict[str, Any], weights: dict[str, torch.Tensor], *, num_classes: int, in_channels: int
) -> nn.Module:
    """The model of a saved model config, with its weights.

    Raises CheckpointError if its `_target_` is not this project's code, and torch's error if the weights do not fit.
    """
    require_own_code(model, targets("models"))
    built = network(model, num_classes=num_classes, in_channels=in_channels)
    built.load_state_dict(weights)
    return built


@dataclass(frozen=True)
class Trained:
    """A model from a checkpoint, the name of its weights, and what inference needs.

    `image_shape` is that of the training images, (C, H, W); `tta` the name of its `views`.
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
    """Rebuild the model of a checkpoint, without reading any images.

    `weights` is "model" or the name of an average, None for `result_weights`; `tta` is a config of that group, None
    for that of the training. A device that lacks the precision of the training uses fp32. Raises CheckpointError if
    the checkpoint names code that is not this project's, or is inconsistent.
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
        views, called = instantiate(chosen), option_name("tta", chosen)
        found = Trained(model, name, classes, image_shape, normalize, here.precision, views, called)
        check_forward(found if tta is None else replace(found, views=as_it_is))
        return found


@torch.no_grad()
def check_forward(trained: Trained) -> torch.Tensor:
    """The logits [1, K] of a zero image of the checkpoint's `image_shape`; raises if the settings are inconsistent."""
    black = torch.zeros(1, *trained.image_shape, device=trained.precision.device)
    with trained.precision.autocast():
        return mean_logits(trained.model.eval(), trained.normalize(black), trained.views)


@dataclass(frozen=True)
class EvalData:
    """Images that a model was not trained on: the test images, and the validation images, which may be none."""

    test: EvalLoader
    val: EvalLoader


def eval_data(
    checkpoint: dict[str, Any], trained: Trained, *, eval_batch_size: int | None, root: str | None
) -> EvalData:
    """The test and validation images of a checkpoint's run; an argument of None keeps the run's setting.

    Raises CheckpointError if the data set has other classes, no test images, another image shape, or no description,
    and RunError if it cannot be read.
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
    """Each option of the tta config group by name; Hydra must be initialised."""
    options = GlobalHydra.instance().config_loader().get_group_options("tta")
    return {option: instantiate(compose("evaluate", [f"tta={option}"]).tta) for option in options}


def option_name(group: str, values: dict[str, Any]) -> str:
    """The name of the config group's option with these values or, if there is none, the class and its arguments."""
    for file in sorted((CONF / group).glob("*.yaml")):
        if plain(OmegaConf.load(file)) == values:
            return file.stem
    options = ", ".join(f"{key}={value}" for key, value in values.items() if not key.startswith("_"))
    return f"{values['_target_'].rpartition('.')[2]} ({options})"


def require_own_code(group: Any, allowed: frozenset[str]) -> None:
    """Reject a saved config without `_target_`, with code other than `allowed`, or with interpolations."""
    if not isinstance(group, dict) or "_target_" not in group:
        raise CheckpointError("the checkpoint does not describe what it holds: a group of its settings builds nothing")
    refuse_foreign(group, allowed)


def refuse_foreign(node: Any, allowed: frozenset[str]) -> None:
    """Reject settings with a `_target_` other than `allowed`, or with interpolations."""
    if isinstance(node, dict):
        if "_target_" in node and node["_target_"] not in allowed:
            raise CheckpointError(f"the checkpoint asks for {node['_target_']}, which conf/ does not name: refused")
        node = list(node.values())
    if isinstance(node, list):
        for member in node:
            refuse_foreign(member, allowed)
    elif isinstance(node, str) and "${" in node:
        raise CheckpointError(f"the checkpoint's configuration holds the reference {node}: refused")
