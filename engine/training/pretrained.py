"""Weights to begin with: those of a checkpoint of this program, or a state_dict of anybody's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.run.console import say
from engine.training.checkpoint_file import (
    CheckpointError,
    chosen_weights,
    described,
    is_own,
    load,
    own_content,
    without_wrappers,
)

WRAPPINGS = ("state_dict", "model", "net")  # under which programs keep the weights beside other things

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

COUNTER = "num_batches_tracked"  # by batch norm, which nothing here asks for, and files of old do not have

NAMED = 4  # tensors that a line names


@dataclass(frozen=True)
class Pretrained:
    """Weights by the names that they have in this project's networks, and the file that they are from."""

    file: Path
    weights: dict[str, Tensor]

    @torch.no_grad()
    def give_to(self, model: nn.Module) -> None:
        """Give `model` the tensors that have a name and a shape of its own, and say which do not.

        Raises CheckpointError where none has, or only vectors, which many a network has of the same length.
        """
        own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
        there = {name: list(tensor.shape) for name, tensor in self.weights.items()}
        taken = [name for name, tensor in own.items() if there.get(name) == list(tensor.shape)]
        if not any(own[name].ndim > 1 for name in taken):
            raise CheckpointError(f"{self.file} has no weights of this network: it has {listed(there)}")
        for name in taken:
            own[name].copy_(self.weights[name])
        new = {name: list(tensor.shape) for name, tensor in own.items() if name not in taken}
        left = {name: shape for name, shape in there.items() if name not in taken}
        others = [f"; {what} {listed(some)}" for what, some in (("new are", new), ("left there are", left)) if some]
        say(f"{self.file}: {len(taken)} of {len(own)} tensors taken{''.join(others)}")


def read_pretrained(file: Path) -> Pretrained:
    """The weights in a file: of a checkpoint of this program those that count. Raises CheckpointError."""
    content = load_safetensors(file)[0] if file.suffix == ".safetensors" else load(file)
    if is_own(content):
        with described():
            _, content = chosen_weights(own_content(content, file), None)
    if isinstance(content, dict):
        content = next((content[name] for name in WRAPPINGS if isinstance(content.get(name), dict)), content)
    weights = own_names(without_wrappers(tensors(content)))
    if not weights:
        raise CheckpointError(f"{file} holds no weights by their names")
    return Pretrained(file, weights)


def load_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a file of the safetensors format holds, and what it says of it. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist")
    try:
        with safe_open(file, framework="pt") as content:
            return load_file(file), content.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is not a file of safetensors: {error}") from None


def tensors(content: Any) -> dict[str, Tensor]:
    """What of a file's content could be weights by their names: no counters, and nothing that only looks like it."""
    pairs = content.items() if isinstance(content, dict) else ()
    return {
        name: value
        for name, value in pairs
        if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name) and not name.endswith(COUNTER)
        if isinstance(value, Tensor) and value.dtype in NUMBERS and value.layout == torch.strided and value.is_cpu
    }


def own_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a residual network by the names of models/resnet.py, where they have those of torchvision."""
    is_foreign = any(re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", name) for name in weights)
    return {own_name(name): value for name, value in weights.items()} if is_foreign else weights


def own_name(name: str) -> str:
    """What models/resnet.py calls a tensor of a residual network elsewhere; a name that is not known stays.

    The names are those of torchvision, which timm and github.com/chenyaofo/pytorch-cifar-models share (downsample,
    fc), and of github.com/kuangliu/pytorch-cifar and github.com/akamaster/pytorch_resnet_cifar10 (shortcut, linear).
    """
    place = {"conv": 0, "bn": 1}
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"stem.{place[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)([123])\.(\w+)", name):
        layer, block, kind, number, tensor = match.groups()  # of each three, the third is an activation
        return f"stages.{int(layer) - 1}.{block}.residual.{3 * (int(number) - 1) + place[kind]}.{tensor}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.([01])\.(\w+)", name):
        return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.{match[3]}.{match[4]}"
    if match := re.fullmatch(r"(?:fc|linear)\.(\w+)", name):
        return f"head.linear.{match[1]}"
    return name


def listed(shapes: Mapping[str, list[int]]) -> str:
    """The first few tensors with their shapes, and how many more there are."""
    named = [f"{name} {shape}" for name, shape in list(shapes.items())[:NAMED]]
    return ", ".join(named) + (f" and {len(shapes) - NAMED} more" if len(shapes) > NAMED else "")
