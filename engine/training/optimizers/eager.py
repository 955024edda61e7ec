"""Optimizers that do not import torch's compiler, which takes about a second and 150 MB."""

import inspect
from functools import cache

import torch
from torch.optim import Optimizer

# What torch decorates to keep torch.compile out; the decorators import the compiler at the first call.
DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@cache
def eager(kind: type[Optimizer]) -> type[Optimizer]:
    """A subclass of `kind` with undecorated methods; `step` runs under no_grad, whatever `differentiable` says."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in DECORATED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "__module__": kind.__module__, **methods})
