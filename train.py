"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from engine import sweep
from engine.command import chosen_options, command_line, leave, stopped
from engine.errors import RunError
from engine.launch import joined, launch
from engine.memory import memory_explained
from engine.rundir import RunDirectory
from engine.signals import Interrupted, Signals


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """One run, from a checked configuration to its result; a directory in which nothing happened does not stay."""
    job = HydraConfig.get()
    run = RunDirectory(Path(job.runtime.output_dir), words=job.overrides.task)
    try:
        if job.mode == RunMode.MULTIRUN:
            sweep.job(config, run, train)
        else:
            what = f"model={job.runtime.choices.model}"
            with Signals(), joined(run, config.trainer.device) as (place, ranks), memory_explained(what):
                train(config, place, ranks)
    except RunError as error:
        leave(error)
    except Interrupted as interruption:
        stopped(run, interruption.exit_status, sweep=job.sweep.dir if job.mode == RunMode.MULTIRUN else None)


def train(config: DictConfig, run: RunDirectory, ranks: Any = None) -> None:
    """Build the parts, fit, test, and say how it went; as one of several `ranks`, together with the others."""
    begun, job = time.perf_counter(), HydraConfig.get()
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine import build, lr_find, report
    from engine.checkpoint import NotSaved
    from engine.fit import Diverged, fit
    from engine.logging import RunLog

    choices, overrides = chosen_options(config, job), job.overrides.task
    parts = build.parts(config, run, keep_data=job.mode == RunMode.MULTIRUN, ranks=ranks)
    state, train = parts.state, parts.loaders.train
    facts = report.introduce(choices, config.seed, parts)
    if config.lr_find:
        return lr_find.suggest(state, train, parts.train_step, lr=config.optimizer.lr, run=run, words=overrides)
    try:
        with RunLog(run, facts, state.records) as log, memory_explained(report.what_computes(facts)):
            if state.step == 0:
                log.first_batch(train)
            report.say(f"set up in {time.perf_counter() - begun:.1f} s")
            fit(
                state,
                train=train,
                after_epoch=parts.loaders.after_epoch,
                train_step=parts.train_step,
                max_epochs=config.trainer.max_epochs,
                log=log,
                checkpoints=parts.checkpoints,
                roll_back=config.trainer.on_nonfinite == "rollback",
            )
            figures = report.final_test(parts)
            log.finish(figures, hyperparameters=build.hyperparameters(config, choices, overrides))
    except Diverged as error:
        raise Diverged(f"{error}; {parts.checkpoints}") from None
    report.conclude(figures, run, choices["expected"])
    if not parts.checkpoints.is_saved:
        raise NotSaved(f"{run}: the last epoch could not be written")


if __name__ == "__main__":
    launch(command_line("config"))
    main()
