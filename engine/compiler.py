"""Torch's compiler where it is asked for, and torch without it: to import it takes a second and a half and 150 MB."""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def compile_network(model: nn.Module) -> None:
    """Compile a network, in place, so that the names of its weights stay as they are.

    Each shape (what is left over at the end of an epoch has its own) is compiled for itself, since kernels for any
    shape are slower.
    """
    model.compile(dynamic=False)


def without_compiler(*functions: Any) -> None:
    """Have torch call these functions of its own without the compiler, which it imports only to keep it out of them.

    A function that the compiler shall not look into is marked when it is called first, in a way that
    `torch._compile` looks for. What else there is among them is left as it is, and where a version of torch goes
    about it otherwise nothing changes.
    """
    for function in functions:
        if marked := getattr(function, "__wrapped__", None):
            setattr(marked, "__dynamo_disable", marked)


def step_without_compiler(optimizer: Optimizer) -> None:
    """Have an optimizer of torch's not import the compiler in each step, to tell it where a graph ends.

    Hooks of its steps are no longer called, and its steps not followed by autograd.
    """
    optimizer.step = MethodType(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer)
