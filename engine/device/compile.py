"""torch.compile on request, and avoiding its import otherwise, which takes about a second and 150 MB."""

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

SHAPES = 16  # most batch shapes of a run: full and last batches in training and evaluation, and their TTA views


def compile_network(model: nn.Module) -> None:
    """Compile a model in place, which keeps its parameter names.

    Each input shape is compiled separately (the last batch of an epoch has its own): dynamic shapes are slower.
    """
    raise_recompile_limits(SHAPES)
    model.compile(dynamic=False)


def raise_recompile_limits(more: int) -> None:
    """Raise torch's recompile limits by `more`; beyond them it logs a line and runs uncompiled.

    The limits count for the whole process, in which a sweep may compile many models of a class.
    """
    from torch._dynamo import config

    config.recompile_limit += more
    config.accumulated_recompile_limit += more


def without_compiler(*functions: Any) -> None:
    """Let torch's own functions decorated with `_disable_dynamo` run without importing the compiler.

    `torch._compile._disable_dynamo` caches the function it calls in an attribute, and imports the compiler if that is
    missing. Other functions are left unchanged.
    """
    for function in functions:
        if inner := getattr(function, "__wrapped__", None):
            setattr(inner, "__dynamo_disable", inner)


@cache
def optimizers_without_compiler() -> None:
    """Keep torch's optimizers, in the whole process, from importing the compiler for a graph break.

    Their steps then always run under no_grad, whatever `differentiable` says.
    """
    without_compiler(Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict)
    for kind in vars(torch.optim).values():
        if hasattr(kind, "step") and hasattr(kind.step, "__wrapped__"):
            kind.step = torch.no_grad()(inspect.unwrap(kind.step))
