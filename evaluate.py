"""Evaluate trained networks: python evaluate.py checkpoint=PATH; --help says more."""

import hydra
from omegaconf import DictConfig

from engine.check import find_checkpoints
from engine.command import command_line, leave
from engine.errors import RunError
from engine.memory import memory_explained


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The report of one network, or of several side by side, on the test images that their runs were given."""
    # These import torch, which takes seconds: only once the command is known to be good.
    from engine import build, examine
    from engine.checkpoint import read

    networks, parts = [], []
    try:
        for name, file in find_checkpoints(config.checkpoint).items():
            with memory_explained(name, helps="lower eval_batch_size"):
                checkpoint = read(file)
                trained = build.trained(checkpoint, weights=config.weights, device=config.device, tta=config.tta)
                images = build.unseen(checkpoint, trained, eval_batch_size=config.eval_batch_size, root=config.root)
                networks.append(examine.examined(trained, images, file, name))
                if config.every_tta:
                    parts.append(examine.every_tta(trained, images, build.every_tta()))
        examine.report(networks, parts)
    except RunError as error:
        leave(error)


if __name__ == "__main__":
    command_line("evaluate")
    main()
