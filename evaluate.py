"""Evaluate trained networks: python evaluate.py checkpoint=PATH; --help says more."""

import hydra
from omegaconf import DictConfig

from engine.check import find_checkpoints
from engine.command import command_line, leave, stoppable
from engine.errors import RunError
from engine.memory import memory_explained


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The report of one network, or of several side by side, on the test images that their runs were given.

    In its place what a network says of other images, or the network as files for other programs.
    """
    # These import torch, which takes seconds: only once the command is known to be good.
    from engine import build, examine
    from engine.checkpoint import read

    networks, kept, parts = [], {}, []
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
                if config.every_tta:
                    parts.append(examine.every_tta(trained, images, build.every_tta()))
                if config.explain:
                    parts += examine.explain(trained, images)
        if config.robustness:
            examine.require_same_images(networks)
            with memory_explained("robustness", helps="lower eval_batch_size or robustness_limit"):
                root, limit = config.robustness_root, config.robustness_limit
                parts.append(examine.robustness(kept, images, root=root, limit=limit))
        if config.cost:
            parts.append(examine.costs(kept, compiled=config.cost_compile))
        examine.report(networks, parts)
    except RunError as error:
        leave(error)


if __name__ == "__main__":
    with stoppable():
        command_line("evaluate")
        main()
