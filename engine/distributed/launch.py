"""Launch `trainer.devices` processes on one node; for several nodes use torchrun.

torch's elastic agent starts them, and stops all if one dies. Each runs the same command, as under torchrun.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from engine.config.overrides import key_of
from engine.config.resume import quoted
from engine.device.memory import memory_explained
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.run.exit import exit_with_error
from engine.run.process import LAUNCH, is_main_process, is_one_of_several, recorded_exit_status
from engine.run.signals import Interrupted, Signals


class ProcessDied(RunError):
    """A process of the run died; the message is one line that says how."""

    status = 1


def launch(configs: Sequence[DictConfig]) -> None:
    """Run the command in as many processes as the configuration asks for, and exit with their status.

    Returns if that is one, or if this is one of them. The jobs of a sweep have one process each.
    """
    if len(configs) != 1 or is_one_of_several():
        return
    (config,) = configs
    try:
        devices = count_devices(config)
        if devices > 1:
            with Signals(), tempfile.TemporaryDirectory() as directory:
                run(config, devices, directory)
            raise SystemExit(0)
    except RunError as error:
        exit_with_error(error)
    except Interrupted as interruption:
        raise SystemExit(interruption.exit_status) from None


@contextmanager
def joined(run: RunDirectory, device: str, model: str) -> Iterator[tuple[RunDirectory, Any]]:
    """Join the run's process group (engine/distributed/ranks.py), possibly of one, for the duration of the context.

    Rank 0 locks the run directory and broadcasts it to all. Raises OutOfMemory if `model` does not fit into memory.
    """
    with run.in_use() if is_main_process() else nullcontext(), memory_explained(f"model={model}"):
        from engine.distributed import ranks

        with ranks.joined(device) as ranks:
            yield ranks.broadcast_from_main(lambda: run), ranks


def count_devices(config: DictConfig) -> int:
    """The number of processes on this node: `trainer.devices`, or for "auto" one per GPU."""
    if config.trainer.devices != "auto":
        return config.trainer.devices
    import torch

    return max(torch.cuda.device_count(), 1) if config.trainer.device in ("auto", "cuda") else 1


def rank_arguments(config: DictConfig) -> list[str]:
    """The command-line arguments for each rank, with a fixed run directory."""
    directory = ("hydra.run.dir", "hydra.output_subdir")
    if config.resume:
        return [word for word in sys.argv[1:] if key_of(word) not in directory]
    words = [word for word in sys.argv[1:] if key_of(word) != "hydra.run.dir"]
    return [*words, f"hydra.run.dir='{quoted(Path(config.hydra.run.dir))}'"]


def run(config: DictConfig, devices: int, directory: str) -> None:
    """Start the processes and wait for them; they record their exit status in `directory`.

    Raises ProcessDied, Interrupted, or SystemExit with the status of a process.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the agent's errors are reported below, in one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    os.environ[LAUNCH] = directory
    group = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
    )
    try:
        elastic_launch(group, sys.executable)(sys.argv[0], *rank_arguments(config))
    except SignalException as stop:
        raise Interrupted(stop.sigval) from None
    except ChildFailedError as error:
        if (status := recorded_exit_status()) is not None:
            raise SystemExit(status) from None
        rank, failure = error.get_first_failure()
        died = failure.exitcode < 0
        how = f"was killed by {signal.Signals(-failure.exitcode).name}" if died else "ended with an error"
        directory = RunDirectory(Path(config.resume or config.hydra.run.dir))
        what_next = f"; to resume: {directory.resume_command}" if directory.newest else ""
        raise ProcessDied(f"process {rank} of {devices} {how}{what_next}") from None
