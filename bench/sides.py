"""The same network trained by this project, as nearly everybody writes it, and with nothing around it."""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from data.dataset import Images
from engine.build import autotune, objects, training
from engine.build.training import Parts
from engine.config.did_you_mean import CONF
from engine.device.compile import compile_network
from engine.device.cuda_graphs import CudaGraphs
from engine.device.device import Backend, choose_device
from engine.distributed.ranks import ALONE, Ranks
from engine.logging.run_log import RunLog
from engine.logging.sink import Begun
from engine.run.directory import RunDirectory
from engine.sweep.study import never_prune
from engine.training.checkpoints import Checkpoints
from engine.training.fit import fit
from engine.training.state import TrainState

MOST_IMAGES = 50_000  # an epoch of CIFAR


class Options(argparse.ArgumentParser):
    """The command line of a benchmark that trains networks: options, their names, and settings of ours."""

    def __init__(self, name: str, description: str, networks: list[str]):
        super().__init__(prog=f"python -m bench.{name}", description=description.partition("\n")[0])
        self.networks = networks
        self.add_argument("--workers", type=int, default=2, help="threads, and processes of a DataLoader")
        self.add_argument("--rounds", type=int, default=5, help="timings of each side, in turns")
        self.add_argument("--seconds", type=float, default=5, help="that a timing of ours shall take, about")
        self.add_argument("--batch-size", type=int, default=128)
        told = f"networks ({', '.join(networks)}); settings of ours and of its limit, as trainer.compile=true"
        self.add_argument("words", nargs="*", metavar="network | key=value", help=told)

    def parse_args(self, *given: Any) -> argparse.Namespace:
        """With the words told apart, as `networks` and `overrides`; `ours` is what `Ours` takes besides the network."""
        arguments = super().parse_args(*given)
        arguments.networks = [word for word in arguments.words if "=" not in word] or self.networks
        arguments.overrides = [word for word in arguments.words if "=" in word]
        arguments.ours = {name: getattr(arguments, name) for name in ("batch_size", "seconds", "overrides")}
        return arguments


class Unsaved(Checkpoints):
    """Checkpoints that are not written: with epochs of seconds they would take most of the time."""

    def save(self, name: str, state: TrainState) -> None:
        """Nothing."""


class Ours:
    """Epochs of this project's `fit`: loading, augmentation, steps, totals, schedule, log; without validation."""

    def __init__(
        self,
        network: str,
        *,
        batch_size: int,
        seconds: float,
        overrides: Sequence[str] = (),
        ranks: Ranks = ALONE,
    ):
        self.network, self.overrides, self.ranks = network, overrides, ranks
        self.temporary = tempfile.TemporaryDirectory()
        self.run = RunDirectory(Path(self.temporary.name))
        few = self.parts_of(network, batch_size=batch_size, images=2 * batch_size)
        speeds = few.speeds or self.speeds_of_one_way(few)
        steps = round(seconds * ranks.size * speeds[few.backend] / batch_size)
        self.images = batch_size * min(max(2, steps), MOST_IMAGES // batch_size)
        self.parts = self.parts_of(network, batch_size=batch_size, images=self.images)
        self.batch_size, self.epochs = batch_size, 0
        self.log = RunLog(Begun(run=self.run, facts={}, records=self.parts.state.records))

    @staticmethod
    def config(network: str, *, batch_size: int, images: int, overrides: Sequence[str] = ()) -> DictConfig:
        """What `python train.py model=...` composes, on so many generated images."""
        data = ["dataset=shapes", f"dataset.train_size={images}", "dataset.test_size=100", "dataset.val_size=0"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            ours = [f"model={network}", f"trainer.batch_size={batch_size}", *data]  # which nobody else may set
            return compose("config", ["optimizer.lr=0.01", *overrides, *ours])

    def parts_of(self, network: str, *, batch_size: int, images: int) -> Parts:
        """A run of the network."""
        config = self.config(network, batch_size=batch_size, images=images, overrides=self.overrides)
        return training.parts(config, self.run, keep_data=False, ranks=self.ranks)

    def speeds_of_one_way(self, parts: Parts) -> dict[Backend, float]:
        """Images a second where the settings leave no choice, so that no run has measured them."""
        size = {"batch_size": parts.loaders.train.batch_size, "images": len(parts.splits.train)}
        config = self.config(self.network, **size, overrides=self.overrides)
        return self.ranks.broadcast_from_main(
            partial(autotune.measure_speeds, config, parts.splits, [parts.backend], self.ranks)
        )

    @property
    def chosen(self) -> str:
        """How it computes, in words."""
        return ", ".join([str(self.parts.backend), *self.overrides])

    def __call__(self) -> int:
        self.epochs += 1
        self.parts.backend.precision.set_fp32_products()
        fit(
            self.parts.state,
            train=self.parts.loaders.train,
            eval_loaders={},
            train_step=self.parts.train_step,
            max_epochs=self.epochs,
            log=self.log,
            checkpoints=Unsaved(self.run, {}),
            roll_back=False,
            pruning_callback=never_prune,
        )
        self.parts.backend.wait()
        return self.images


def bare(ours: Ours) -> Callable[[], int]:
    """Forward, backward and update on one batch that lies there: the limit of what surrounds them."""
    config = ours.config(ours.network, batch_size=ours.batch_size, images=ours.batch_size, overrides=ours.overrides)
    backend, parts = ours.parts.backend, ours.parts
    state, loss = objects.state(config, parts.splits, backend), parts.train_step.loss
    if config.trainer.compile:
        compile_network(state.model)
    batch, graphs = next(parts.loaders.train.epoch(0)), CudaGraphs() if parts.train_step.graphs else None

    def gradients(images: Tensor, labels: Tensor) -> Tensor:
        with backend.precision.autocast():
            mean = loss(state.model(images), labels)
        mean.backward()
        return mean

    def steps() -> int:
        state.model.train()
        backend.precision.set_fp32_products()
        for _ in range(ours.images // ours.batch_size):
            graphs(gradients, state.model, *batch) if graphs else gradients(*batch)
            state.optimizer.step()
            state.optimizer.zero_grad()
        backend.wait()
        return ours.images

    return steps


class OneByOne(Dataset):
    """Images as torchvision.datasets.CIFAR10 hands them out: an array, from which each becomes a PIL image."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], torch.Tensor]):
        self.data = np.ascontiguousarray(images.images.permute(0, 2, 3, 1).numpy())
        self.targets = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class Elsewhere:
    """A side in processes of its own, which wait while the other sides run; a context that ends them.

    Each process has what `side` makes of one of `arguments`: a context of epochs. All begin an epoch together, and
    must come to as many images. `chosen` is what the first side has under that name: how it computes, or what else it
    found out beforehand.
    """

    def __init__(self, side: Callable[..., AbstractContextManager[Callable[[], int]]], *arguments: tuple):
        start = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        try:
            for given in arguments:
                mine, theirs = start.Pipe()
                process = start.Process(target=serve, args=(theirs, side, given))
                process.start()
                theirs.close()
                self.pipes.append(mine)
                self.processes.append(process)
            self.chosen, *_ = self.answers()
        except BaseException:
            self.terminate()
            raise

    def answers(self) -> list[object]:
        """What each process says next; SystemExit where one has ended."""
        waiting, said = list(self.pipes), {}
        while waiting:
            for pipe in wait(waiting):
                try:
                    said[pipe] = pipe.recv()
                except (EOFError, OSError):
                    raise SystemExit("a process of this benchmark has ended") from None
                waiting.remove(pipe)
        return [said[pipe] for pipe in self.pipes]

    def terminate(self) -> None:
        """End the processes at once."""
        for process in self.processes:
            process.terminate()

    def __enter__(self) -> "Elsewhere":
        return self

    def __call__(self) -> int:
        for pipe in self.pipes:
            with suppress(OSError):  # of one that has ended, which is heard next
                pipe.send(None)
        (images,) = set(self.answers())
        return images

    def __exit__(self, error: type | None, *_: object) -> None:
        if error:
            self.terminate()
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()


def serve(pipe: Connection, side: Callable[..., AbstractContextManager[Callable[[], int]]], given: tuple) -> None:
    """A process of `Elsewhere`: says what its side has as `chosen`, and how many images each epoch had."""
    with side(*given) as epoch:
        pipe.send(getattr(epoch, "chosen", ""))
        for _ in until_closed(pipe):
            pipe.send(epoch())


def until_closed(pipe: Connection) -> Iterator[None]:
    """What comes through a pipe until its other end is closed."""
    with suppress(EOFError, OSError):
        while True:
            yield pipe.recv()


def standard(ours: Ours, *, workers: int) -> Elsewhere:
    """What nearly every repository does, in a process of its own, which has none of the settings of ours."""
    config = ours.config(ours.network, batch_size=ours.batch_size, images=ours.images)
    return Elsewhere(standard_epochs, (config, workers))


@contextmanager
def standard_epochs(config: DictConfig, workers: int) -> Iterator[Callable[[], int]]:
    """Epochs as in `standard_epoch`, with as many threads as workers."""
    torch.set_num_threads(workers)
    yield standard_epoch(config, workers=workers)


def standard_epoch(config: DictConfig, *, workers: int) -> Callable[[], int]:
    """PIL transforms in a DataLoader, fp32, NCHW, `.item()` in each step.

    The workers live on from epoch to epoch, which few repositories let them.
    """
    splits, device = objects.splits(config), choose_device("auto")
    chain = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*chain, transforms.Normalize(splits.mean, splits.std)])
    dataset, batch_size = OneByOne(splits.train, transform), config.trainer.batch_size
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=True)
    (channels, *_) = splits.train.images.shape[1:]
    network = objects.network(objects.plain(config.model), num_classes=len(splits.classes), in_channels=channels).to(
        device
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> int:
        network.train()
        train_loss, correct, total = 0.0, 0, 0
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            outputs = network(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            train_loss += loss.item()
            predicted = outputs.max(1).indices
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
        return total

    return epoch
