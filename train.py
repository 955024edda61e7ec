"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from engine.command import chosen_options, command_line, leave, stopped
from engine.rundir import RunDirectory


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """One run, from a checked configuration to its result; a directory in which nothing happened does not stay."""
    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    try:
        train(config, run)
    except KeyboardInterrupt:  # before or behind the epochs, which end their step and save
        stopped(run)
    finally:
        run.remove_if_unused()


def train(config: DictConfig, run: RunDirectory) -> None:
    """Build the parts, fit, test, and say how it went."""
    begun = time.perf_counter()
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine import build, lr_find, report
    from engine.fit import Diverged, fit
    from engine.logging import RunLog
    from engine.runtime import Interrupted

    job = HydraConfig.get()
    choices, overrides = chosen_options(config, job), job.overrides.task
    try:
        parts = build.parts(config, run, keep_data=job.mode == RunMode.MULTIRUN)
    except build.USER_ERRORS as error:
        leave(error)
    if config.resume:
        run.keep_overrides(overrides)

    state, train = parts.state, parts.loaders.train
    facts = report.introduce(choices, config.seed, parts)
    if config.lr_find:
        return lr_find.suggest(state, train, parts.train_step, lr=config.optimizer.lr, run=run, words=overrides)
    try:
        with RunLog(run, facts, epochs_done=state.step // len(train)) as log:
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
                save=lambda name: parts.checkpoints.save(name, state),
            )
            figures = report.final_test(parts)
            log.finish(figures, hyperparameters=build.hyperparameters(config, choices, overrides))
    except Interrupted as interruption:
        stopped(run, interruption.exit_status)
    except Diverged as error:
        report.say(f"stopped: {error}")
        raise SystemExit(1) from None
    report.conclude(figures, run, choices["expected"])


if __name__ == "__main__":
    command_line("config")
    main()
