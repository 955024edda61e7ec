"""torch.compile on request; only then is the compiler imported, which takes about a second and 150 MB."""

from torch import nn

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
