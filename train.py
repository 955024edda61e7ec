"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from engine.check import make_schedule
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
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine import build, lr_find, report
    from engine.checkpoint import Checkpoints, read
    from engine.fit import Diverged, fit
    from engine.logging import RunLog
    from engine.runtime import Interrupted

    choices, overrides = chosen_options(config, HydraConfig.get()), HydraConfig.get().overrides.task
    try:
        saved = read(run.last) if config.resume else None
        ways = build.ways(config, saved)
        splits = build.splits(config)
        machine, speeds = build.machine(config, splits, ways)
        state = build.state(config, splits, machine)
        loaders = build.loaders(config, splits, machine)
        state.schedule = make_schedule(config, steps_per_epoch=len(loaders.train))
        checkpoints = Checkpoints(run, build.description(config, splits, machine, steps_per_epoch=len(loaders.train)))
        if saved:
            checkpoints.resume(saved, state, force=config.resume_force)
            run.keep_overrides(overrides)
    except build.USER_ERRORS as error:
        leave(error)

    facts = report.introduce(choices, config.seed, splits, state, machine, speeds)
    if config.lr_find:
        step = build.train_step(config, machine)
        return lr_find.suggest(state, loaders.train, step, lr=config.optimizer.lr, run=run, words=overrides)
    try:
        with RunLog(run, facts, epochs_done=state.step // len(loaders.train)) as log:
            if state.step == 0:
                log.first_batch(loaders.train)
            fit(
                state,
                train=loaders.train,
                after_epoch=loaders.after_epoch,
                train_step=build.train_step(config, machine),
                max_epochs=config.trainer.max_epochs,
                log=log,
                save=lambda name: checkpoints.save(name, state),
            )
            figures = report.final_test(state, loaders.test, checkpoints, precision=machine.precision)
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
