"""Optimizers that torch.optim lacks, or has in another form than the papers of the networks used."""

from typing import Any

from torch.optim import Optimizer


def load_memory(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load what an optimizer remembers, where "step" counts, and leave it its own settings.

    They are the same in a run that goes on, unless it was forced to go on with others.
    """
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "step")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
