"""Build the parts of a training run: state, step, loaders, checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from data.dataset import Splits
from data.loader import TrainLoader
from engine.build.autotune import choose_backend, possible_backends, with_batch_size
from engine.build.objects import Loaders, instantiate, loaders, plain, splits, state, train_step
from engine.config.schedule import make_schedule
from engine.device.compile import compile_network
from engine.device.device import Backend
from engine.device.versions import versions
from engine.distributed.ranks import ALONE, Ranks
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.tta import Views
from engine.logging.run_log import RunLog
from engine.run.directory import RunDirectory
from engine.run.find_checkpoint import find_weights
from engine.sweep import study
from engine.training.checkpoint_file import checkpoint_errors, read_newest
from engine.training.checkpoints import Checkpoints
from engine.training.final_test import final_test
from engine.training.fit import fit
from engine.training.pretrained import read_pretrained
from engine.training.state import TrainState
from engine.training.step import TrainStep


def pruning_callback(sweeper: DictConfig) -> Callable[[Sequence[dict[str, Any]]], None]:
    """The callback that may prune the run before each epoch, if it is a trial of a study."""
    options = plain(sweeper)
    if options.get("trial") is None:
        return study.never_prune
    names = ("storage", "study_name", "trial", "pruner", "n_startup_trials", "n_warmup_epochs")
    return study.pruning_callback(**{name: options[name] for name in names})


def description(config: DictConfig, splits: Splits, backend: Backend, train: TrainLoader) -> dict[str, Any]:
    """The metadata of a checkpoint."""
    return {
        "config": plain(config),
        "classes": list(splits.classes),
        "image_shape": list(splits.train.images.shape[1:]),
        "mean": list(splits.mean),
        "std": list(splits.std),
        "precision": backend.precision.name,
        "memory_format": backend.memory_format_name,
        "batch_size": train.batch_size,
        "steps_per_epoch": len(train),
        "versions": versions(),
    }


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a training run.

    `speeds` are the images per second of the benchmarked backends, `views` the TTA views of a test image.
    """

    backend: Backend
    speeds: dict[Backend, float]
    splits: Splits
    state: TrainState
    loaders: Loaders
    train_step: TrainStep
    views: Views
    checkpoints: Checkpoints
    ranks: Ranks
    max_epochs: int
    roll_back: bool

    def fit(
        self, log: RunLog, *, pruning_callback: Callable[[Sequence[dict[str, Any]]], None] = study.never_prune
    ) -> None:
        """Train to the end (engine/training/fit.py), and log the metrics to `log`."""
        fit(
            self.state,
            train=self.loaders.train,
            eval_loaders=self.loaders.eval_loaders,
            train_step=self.train_step,
            max_epochs=self.max_epochs,
            log=log,
            checkpoints=self.checkpoints,
            roll_back=self.roll_back,
            pruning_callback=pruning_callback,
        )

    def final_test(self) -> tuple[dict[str, Any], Evaluation]:
        """The test metrics, and the evaluation of the result weights (engine/training/final_test.py)."""
        return final_test(
            self.state,
            self.loaders.test,
            checkpoints=self.checkpoints,
            steps_per_epoch=len(self.loaders.train),
            precision=self.backend.precision,
            views=self.views,
            ranks=self.ranks,
        )


def parts(config: DictConfig, run: RunDirectory, *, keep_data: bool, ranks: Ranks | None = None) -> Parts:
    """Build a run, or one rank's part of it; a resumed run starts from its newest checkpoint.

    With `keep_data` the data set is cached for the next run of this process. Raises RunError.
    """
    ranks = ranks or ALONE
    saved, _ = ranks.broadcast_from_main(lambda: read_newest(run) if config.resume else (None, None))
    with checkpoint_errors():
        possible = possible_backends(config, saved)  # before the data set is read or downloaded
    is_new_run = saved is None and config.init_from is not None
    pretrained = read_pretrained(find_weights(config.init_from)) if is_new_run else None
    images = splits(config, keep=keep_data)
    given, config = config, with_batch_size(config, images, possible[0], saved)
    backend, speeds = choose_backend(config, images, possible, ranks)
    batches = loaders(config, images, backend, ranks)
    schedule = make_schedule(config, steps_per_epoch=len(batches.train))
    training = state(config, images, backend, schedule=schedule, pretrained=pretrained, ranks=ranks)
    step = train_step(config, backend, ranks, batches.train)
    trainer = config.trainer
    checkpoints = Checkpoints(
        run,
        description(given, images, backend, batches.train),
        minutes=trainer.checkpoint_minutes,
        steps=trainer.checkpoint_every_steps,
        ranks=ranks,
    )
    ranks.seed(config.seed, deterministic=trainer.deterministic)
    if saved:
        with checkpoint_errors():
            checkpoints.resume(saved, training, force=config.resume_force)
    if ranks.size > 1:
        some = batches.train.normalize(batches.train.images.images[:2])
        training.replica = ranks.replica(training.model, some)
    if trainer.compile:
        compile_network(training.model)
    return Parts(
        backend=backend,
        speeds=speeds,
        splits=images,
        state=training,
        loaders=batches,
        train_step=step,
        views=instantiate(config.tta),
        checkpoints=checkpoints,
        ranks=ranks,
        max_epochs=trainer.max_epochs,
        roll_back=trainer.on_nonfinite == "rollback",
    )
