"""Pretrained weights: from a checkpoint of this program, or a state_dict from elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.run.console import logger
from engine.training.checkpoint_file import (
    CheckpointError,
    checkpoint_errors,
    chosen_weights,
    is_project_checkpoint,
    load,
    validated_checkpoint,
    without_wrappers,
)

WRAPPINGS = ("state_dict", "model", "net")  # keys under which other programs store the weights

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

COUNTER = "num_batches_tracked"  # of batch norm: not used here, and absent in old files

NAMED = 4  # tensors that a message lists


@dataclass(frozen=True)
class Pretrained:
    """Weights by their names in this project's networks, and the file they come from."""

    file: Path
    weights: dict[str, Tensor]

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Copy the tensors whose name and shape match into `model`, and print which do not.

        Raises CheckpointError if none match, or only vectors, whose lengths often match by chance.
        """
        own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
        saved = {name: list(tensor.shape) for name, tensor in self.weights.items()}
        loaded = [name for name, tensor in own.items() if saved.get(name) == list(tensor.shape)]
        if not any(own[name].ndim > 1 for name in loaded):
            raise CheckpointError(f"{self.file} has no weights of this network: it has {listed(saved)}")
        for name in loaded:
            own[name].copy_(self.weights[name])
        missing = {name: list(tensor.shape) for name, tensor in own.items() if name not in loaded}
        unused = {name: shape for name, shape in saved.items() if name not in loaded}
        others = [f"; {what}: {listed(some)}" for what, some in (("missing", missing), ("unused", unused)) if some]
        logger.info(f"{self.file}: {len(loaded)} of {len(own)} tensors loaded{''.join(others)}")


def read_pretrained(file: Path) -> Pretrained:
    """The weights in a file; of a checkpoint of this program, its result weights. Raises CheckpointError."""
    content = load_safetensors(file)[0] if file.suffix == ".safetensors" else load(file)
    if is_project_checkpoint(content):
        with checkpoint_errors():
            _, content = chosen_weights(validated_checkpoint(content, file), None)
    if isinstance(content, dict):
        content = next((content[name] for name in WRAPPINGS if isinstance(content.get(name), dict)), content)
    weights = rename_weights(without_wrappers(tensors(content)))
    if not weights:
        raise CheckpointError(f"{file} contains no named weights")
    return Pretrained(file, weights)


def load_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist")
    try:
        with safe_open(file, framework="pt") as content:
            return load_file(file), content.metadata() or {}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from None


def tensors(content: Any) -> dict[str, Tensor]:
    """The entries of a file's content that can be weights: named dense floating-point tensors, no counters."""
    pairs = content.items() if isinstance(content, dict) else ()
    return {
        name: value
        for name, value in pairs
        if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name) and not name.endswith(COUNTER)
        if isinstance(value, Tensor) and value.dtype in NUMBERS and value.layout == torch.strided and value.is_cpu
    }


def rename_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a residual network from torchvision's names to those of models/resnet.py."""
    is_foreign = any(re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", name) for name in weights)
    return {renamed_weight(name): value for name, value in weights.items()} if is_foreign else weights


def renamed_weight(name: str) -> str:
    """The name in models/resnet.py of a tensor with another project's name; an unknown name is returned unchanged.

    The names are those of torchvision, which timm and github.com/chenyaofo/pytorch-cifar-models share (downsample,
    fc), and of github.com/kuangliu/pytorch-cifar and github.com/akamaster/pytorch_resnet_cifar10 (shortcut, linear).
    """
    index = {"conv": 0, "bn": 1}
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"stem.{index[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)([123])\.(\w+)", name):
        layer, block, kind, number, tensor = match.groups()  # every third layer is an activation
        return f"stages.{int(layer) - 1}.{block}.residual.{3 * (int(number) - 1) + index[kind]}.{tensor}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.([01])\.(\w+)", name):
        return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.{match[3]}.{match[4]}"
    if match := re.fullmatch(r"(?:fc|linear)\.(\w+)", name):
        return f"head.linear.{match[1]}"
    return name


def listed(shapes: Mapping[str, list[int]]) -> str:
    """The first few tensors with their shapes, and how many more there are."""
    named = [f"{name} {shape}" for name, shape in list(shapes.items())[:NAMED]]
    return ", ".join(named) + (f" and {len(shapes) - NAMED} more" if len(shapes) > NAMED else "")
