"""Evaluate a trained network: python evaluate.py checkpoint=PATH; --help says more."""

import hydra
from omegaconf import DictConfig

from engine.check import find_checkpoint
from engine.command import command_line, leave
from engine.errors import RunError
from engine.memory import memory_explained


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """The figures of one checkpoint on the test images that its run was given."""
    # These import torch, which takes seconds: only once the command is known to be good.
    from engine import build, report
    from engine.checkpoint import read
    from engine.evaluate import evaluate

    file = find_checkpoint(config.checkpoint)
    try:
        with memory_explained(str(file), helps="lower eval_batch_size"):
            trained = build.trained(
                read(file),
                weights=config.weights,
                device=config.device,
                eval_batch_size=config.eval_batch_size,
                root=config.root,
                tta=config.tta,
            )
            figures = evaluate(trained.model, trained.test, precision=trained.precision, views=trained.views)
        report.evaluation(file, trained.weights, figures, trained.classes)
    except RunError as error:
        leave(error)


if __name__ == "__main__":
    command_line("evaluate")
    main()
