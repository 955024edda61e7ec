"""Torch's compiler where it is asked for, and torch without it: to import it takes about a second and 150 MB."""

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

SHAPES = 16  # of batches that a network meets at most: whole ones and the rest in training, evaluation, and their views


def compile_network(model: nn.Module) -> None:
    """Compile a network, in place, so that the names of its weights stay as they are.

    Each shape (what is left over at the end of an epoch has its own) is compiled for itself, since kernels for any
    shape are slower.
    """
    allow_compilations(SHAPES)
    model.compile(dynamic=False)


def allow_compilations(more: int) -> None:
    """Let torch compile the same class so often again: beyond its limits it logs a line, and computes uncompiled.

    These count for the whole process, in which a sweep may have many networks of a family.
    """
    from torch._dynamo import config

    config.recompile_limit += more
    config.accumulated_recompile_limit += more


def without_compiler(*functions: Any) -> None:
    """Have torch call functions of its own without the compiler, which it imports only to keep it out of them.

    `torch._compile._disable_dynamo` keeps what it calls in their place in an attribute, and imports the compiler where
    there is none. What is not such a function is left as it is.
    """
    for function in functions:
        if inner := getattr(function, "__wrapped__", None):
            setattr(inner, "__dynamo_disable", inner)


@cache
def optimizers_without_compiler() -> None:
    """Have torch's own optimizers, all of this process, not import the compiler to tell it where a graph ends.

    Their steps are then never followed by autograd, whatever `differentiable` says.
    """
    without_compiler(Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict)
    for kind in vars(torch.optim).values():
        if hasattr(kind, "step") and hasattr(kind.step, "__wrapped__"):
            kind.step = torch.no_grad()(inspect.unwrap(kind.step))
