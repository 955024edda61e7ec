"""Evaluate trained networks: python evaluate.py checkpoint=PATH; --help says more."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from engine.check import find_checkpoints
from engine.command import command_line, leave, stoppable
from engine.errors import RunError
from engine.memory import memory_explained

if TYPE_CHECKING:
    from engine.build import Trained, Unseen
    from engine.examine.parts import Part


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The report of one network, or of several side by side, on the test images that their runs were given.

    In its place what a network says of other images, or the network as files for other programs.
    """
    # These import torch, which takes seconds: only once the command is known to be good.
    from engine import build, examine
    from engine.checkpoint import read

    networks, kept = [], {}
    try:
        for name, file in find_checkpoints(config.checkpoint).items():
            with memory_explained(name, helps="lower eval_batch_size"):
                checkpoint = read(file)
                trained = build.trained(checkpoint, weights=config.weights, device=config.device, tta=config.tta)
                if config.predict is not None:
                    return examine.predict(trained, config.predict, file, at_once=config.eval_batch_size)
                if config.export is not None:
                    return examine.export(trained, checkpoint, config.export, file)
                images = build.unseen(checkpoint, trained, eval_batch_size=config.eval_batch_size, root=config.root)
                networks.append(examine.examined(trained, images, file, name))
                kept[networks[-1].name] = trained
        examine.report(networks, asked_for(config, kept, images))
    except RunError as error:
        leave(error)


def asked_for(config: DictConfig, networks: dict[str, "Trained"], images: "Unseen") -> Iterator["Part"]:
    """The parts of the report beside the figures, each found out when it is taken; all networks see the same images."""
    from engine import build, examine

    (name, first), *_ = networks.items()
    with memory_explained(name, helps="lower eval_batch_size"):
        if config.every_tta:
            yield examine.every_tta(first, images, build.every_tta())
        if config.explain:
            yield from examine.explain(first, images)
    if config.robustness:
        with memory_explained("robustness", helps="lower eval_batch_size or robustness_limit"):
            root, limit = config.robustness_root, config.robustness_limit
            yield examine.robustness(networks, images, root=root, limit=limit)
    if config.cost:
        with memory_explained("cost=true", helps="device=cpu, or fewer networks at once"):
            yield examine.costs(networks, compiled=config.cost_compile)


if __name__ == "__main__":
    with stoppable():
        command_line("evaluate")
        main()
