"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

import time

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from engine.build.sweep_estimate import announce
from engine.config.choices import chosen_options
from engine.config.command import command_line, run_directory
from engine.device.memory import memory_explained
from engine.distributed.launch import joined, launch
from engine.run.console import logger
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.run.exit import exit_on_signal, exit_stopped, exit_with_error
from engine.run.signals import Interrupted, Signals
from engine.sweep.jobs import Table, run_job


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """One run, from a checked configuration to its result; a directory in which nothing happened does not stay."""
    job = HydraConfig.get()
    run = run_directory(config, job)
    try:
        if job.mode == RunMode.MULTIRUN:
            run_job(config, run, train)
        else:
            with Signals(), joined(run, config.trainer.device, job.runtime.choices.model) as (directory, ranks):
                train(config, directory, ranks)
    except RunError as error:
        exit_with_error(error)
    except Interrupted as interruption:
        exit_stopped(run, interruption.exit_status, sweep=job.sweep.dir if job.mode == RunMode.MULTIRUN else None)


def train(config: DictConfig, run: RunDirectory, ranks: object = None) -> None:
    """Build the parts, fit, test, and say how it went; as one of several `ranks`, together with the others."""
    started, job = time.perf_counter(), HydraConfig.get()
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine.build import describe, objects, training
    from engine.logging import summary
    from engine.logging.run_log import RunLog
    from engine.logging.sink import Begun
    from engine.training import checkpoints, lr_find

    choices, overrides = chosen_options(config, job), job.overrides.task
    parts = training.parts(config, run, keep_data=job.mode == RunMode.MULTIRUN, ranks=ranks)
    state, train, facts = parts.state, parts.loaders.train, describe.introduce(choices, config.seed, parts)
    if config.lr_find:
        return lr_find.suggest(state, train, parts.train_step, lr=config.optimizer.lr, run=run, words=overrides)
    if config.init_only:
        return checkpoints.save_initial(state, parts.checkpoints)
    begun = Begun(
        run=run, facts=facts, config=objects.plain(config), records=state.records, model=state.model, train=train
    )
    with RunLog(begun, objects.sinks(config)) as log, memory_explained(describe.what_computes(facts)):
        logger.info(f"set up in {time.perf_counter() - started:.1f} s")
        parts.fit(log, pruning_callback=training.pruning_callback(job.sweeper))
        figures, tested = parts.final_test()
        given = describe.hyperparameters(config, choices, overrides)
        shown = {"images": parts.splits.test, "classes": parts.splits.classes}
        log.finish(figures, hyperparameters=given, tested=tested, **shown)
    summary.conclude(figures, run, choices["expected"])
    parts.checkpoints.require_saved()
    summary.require_kept(run)


if __name__ == "__main__":
    with exit_on_signal(lambda: Table.directory):
        configs = command_line("config")
        announce(configs)
        launch(configs)
        main()
