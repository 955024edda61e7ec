"""Evaluate trained networks: python evaluate.py checkpoint=PATH; --help says more."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from engine.config.command import command_line
from engine.device.memory import memory_explained
from engine.run.errors import RunError
from engine.run.exit import exit_on_signal, exit_with_error
from engine.run.find_checkpoint import find_checkpoints

if TYPE_CHECKING:
    from engine.build.from_checkpoint import EvalData, Trained
    from engine.report.parts import Part


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The report of one network, or of several side by side, on the test images that their runs were given.

    In its place what a network says of other images, or the network as files for other programs.
    """
    # These import torch, which takes seconds: only once the command is known to be good.
    from engine.build.from_checkpoint import eval_data, rebuild
    from engine.inference.export import export
    from engine.inference.predict import predict
    from engine.report.network_result import network_result
    from engine.report.report import report
    from engine.training.checkpoint_file import read

    networks, kept = [], {}
    try:
        for name, file in find_checkpoints(config.checkpoint).items():
            with memory_explained(name, helps="lower eval_batch_size"):
                checkpoint = read(file)
                trained = rebuild(checkpoint, weights=config.weights, device=config.device, tta=config.tta)
                if config.predict is not None:
                    return predict(trained, config.predict, file, batch_size=config.eval_batch_size)
                if config.export is not None:
                    return export(trained, checkpoint, config.export, file)
                images = eval_data(checkpoint, trained, eval_batch_size=config.eval_batch_size, root=config.root)
                networks.append(network_result(trained, images, file, name))
                kept[networks[-1].name] = trained
        report(networks, asked_for(config, kept, images))
    except RunError as error:
        exit_with_error(error)


def asked_for(config: DictConfig, networks: dict[str, "Trained"], images: "EvalData") -> Iterator["Part"]:
    """The optional parts of the report, each computed when it is taken; all networks see the same images."""
    from engine.build import from_checkpoint
    from engine.report.cost import costs
    from engine.report.every_tta import every_tta
    from engine.report.explain import explain
    from engine.report.robustness import robustness

    (name, first), *_ = networks.items()
    with memory_explained(name, helps="lower eval_batch_size"):
        if config.every_tta:
            yield every_tta(first, images, from_checkpoint.every_tta())
        if config.explain:
            yield from explain(first, images)
    if config.robustness:
        with memory_explained("robustness", helps="lower eval_batch_size or robustness_limit"):
            root, limit = config.robustness_root, config.robustness_limit
            yield robustness(networks, images, root=root, limit=limit)
    if config.cost:
        with memory_explained("cost=true", helps="device=cpu, or fewer networks at once"):
            yield costs(networks, compiled=config.cost_compile)


if __name__ == "__main__":
    with exit_on_signal():
        command_line("evaluate")
        main()
