"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

import time

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from engine import sweep
from engine.command import chosen_options, command_line, leave, run_directory, stoppable, stopped
from engine.errors import RunError
from engine.launch import joined, launch
from engine.memory import memory_explained
from engine.rundir import RunDirectory
from engine.signals import Interrupted, Signals


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """One run, from a checked configuration to its result; a directory in which nothing happened does not stay."""
    job = HydraConfig.get()
    run = run_directory(config, job)
    try:
        if job.mode == RunMode.MULTIRUN:
            sweep.job(config, run, train)
        else:
            with Signals(), joined(run, config.trainer.device, job.runtime.choices.model) as (place, ranks):
                train(config, place, ranks)
    except RunError as error:
        leave(error)
    except Interrupted as interruption:
        stopped(run, interruption.exit_status, sweep=job.sweep.dir if job.mode == RunMode.MULTIRUN else None)


def train(config: DictConfig, run: RunDirectory, ranks: object = None) -> None:
    """Build the parts, fit, test, and say how it went; as one of several `ranks`, together with the others."""
    begun, job = time.perf_counter(), HydraConfig.get()
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine import build, lr_find, pretrained, report, tensorboard
    from engine.fit import Diverged, fit
    from engine.logging import RunLog

    choices, overrides = chosen_options(config, job), job.overrides.task
    parts = build.parts(config, run, keep_data=job.mode == RunMode.MULTIRUN, ranks=ranks)
    state, train, facts = parts.state, parts.loaders.train, report.introduce(choices, config.seed, parts)
    if config.lr_find:
        return lr_find.suggest(state, train, parts.train_step, lr=config.optimizer.lr, run=run, words=overrides)
    if config.init_only:
        return pretrained.keep(state, parts.checkpoints)
    try:
        with RunLog(run, facts, state.records) as log, memory_explained(report.what_computes(facts)):
            if state.step == 0:
                tensorboard.begin(log, state.model, train, config=build.plain(config), facts=facts)
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
                judge=build.judge(job.sweeper),
            )
            figures, tested = report.final_test(parts)
            log.show(tensorboard.ending(tested, parts.splits.test, parts.splits.classes))
            log.finish(figures, hyperparameters=build.hyperparameters(config, choices, overrides))
    except Diverged as error:
        raise Diverged(f"{error}; {parts.checkpoints}") from None
    report.conclude(figures, run, choices["expected"])
    parts.checkpoints.require_saved()
    report.require_kept(run)


if __name__ == "__main__":
    with stoppable():
        launch(command_line("config"))
        main()
