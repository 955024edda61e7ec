"""Train a network: python train.py [group=option ...] [key=value ...]; --help lists what there is."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from engine.check import make_schedule
from engine.command import chosen_options, command_line, leave
from engine.rundir import RunDirectory


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """One run, from a checked configuration to its result."""
    # These import torch, which takes seconds: only once the configuration is known to be good.
    from engine import build, report
    from engine.checkpoint import Checkpoints
    from engine.fit import Diverged, fit
    from engine.logging import RunLog
    from engine.runtime import Interrupted

    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    choices, overrides = chosen_options(config, HydraConfig.get()), HydraConfig.get().overrides.task
    try:
        machine = build.machine(config)
        splits = build.splits(config)
        state = build.state(config, splits, machine)
        train, val, test = build.loaders(config, splits, machine)
        schedule = make_schedule(config, steps_per_epoch=len(train))
        checkpoints = Checkpoints(run, build.description(config, splits, machine))
        if config.resume:
            checkpoints.resume(state, force=config.resume_force)
    except build.USER_ERRORS as error:
        run.remove_if_unused()
        leave(error)

    facts = report.facts(choices, config.seed, splits, state.model, machine)
    report.introduce(facts)
    try:
        with RunLog(run, facts, epochs_done=state.step // len(train)) as log:
            if state.step == 0:
                log.first_batch(train)
            fit(
                state,
                train=train,
                val=val,
                train_step=build.train_step(config, machine),
                schedule=schedule,
                max_epochs=config.trainer.max_epochs,
                log=log,
                save=lambda name: checkpoints.save(name, state),
            )
            figures = report.final_test(
                state, test, checkpoints, precision=machine.precision, last_epoch=config.trainer.max_epochs
            )
            log.finish(figures, hyperparameters=build.hyperparameters(config, choices, overrides))
    except Interrupted as interruption:
        report.say(f"stopped by {interruption}; to go on: python train.py resume={run}")
        raise SystemExit(interruption.exit_status) from None
    except Diverged as error:
        report.say(f"stopped: {error}")
        raise SystemExit(1) from None
    report.conclude(figures, run)


if __name__ == "__main__":
    command_line("config")
    main()
