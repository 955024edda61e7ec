"""The processes of a run on one machine, trainer.devices of them; several machines are torchrun's.

torch's elastic agent starts them, and ends all where one has died. Each runs the same command, as
under torchrun.
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
from engine.run.process import LAUNCH, is_main_process, is_one_of_several, over
from engine.run.signals import Interrupted, Signals


class Ended(RunError):
    """The processes of a run have ended before it; the message is one line that says how."""

    status = 1


def launch(configs: Sequence[DictConfig]) -> None:
    """Run the command in as many processes as its configuration asks for, and exit as they do.

    Returns where that is one, or this is one of them. The jobs of a sweep have one process each.
    """
    if len(configs) != 1 or is_one_of_several():
        return
    (config,) = configs
    try:
        devices = count_devices(config)
        if devices > 1:
            with Signals(), tempfile.TemporaryDirectory() as place:
                run(config, devices, place)
            raise SystemExit(0)
    except RunError as error:
        exit_with_error(error)
    except Interrupted as interruption:
        raise SystemExit(interruption.exit_status) from None


@contextmanager
def joined(run: RunDirectory, device: str, model: str) -> Iterator[tuple[RunDirectory, Any]]:
    """Within, this process is one of the ranks of a run (engine/distributed/ranks.py), which may be the only one.

    The first of them holds the run's directory, and all get its name. Where there is not memory enough for `model`,
    OutOfMemory says so.
    """
    with run.in_use() if is_main_process() else nullcontext(), memory_explained(f"model={model}"):
        from engine.distributed import ranks

        with ranks.joined(device) as ranks:
            yield ranks.broadcast_from_main(lambda: run), ranks


def count_devices(config: DictConfig) -> int:
    """Processes on this machine: as many as are asked for, or one for each GPU."""
    if config.trainer.devices != "auto":
        return config.trainer.devices
    import torch

    return max(torch.cuda.device_count(), 1) if config.trainer.device in ("auto", "cuda") else 1


def words_of_ranks(config: DictConfig) -> list[str]:
    """The command's arguments for each process, in which the directory is settled."""
    directory = ("hydra.run.dir", "hydra.output_subdir")
    if config.resume:
        return [word for word in sys.argv[1:] if key_of(word) not in directory]
    words = [word for word in sys.argv[1:] if key_of(word) != "hydra.run.dir"]
    return [*words, f"hydra.run.dir='{quoted(Path(config.hydra.run.dir))}'"]


def run(config: DictConfig, devices: int, place: str) -> None:
    """Start the processes and wait for them; `place` is a directory in which they note how the run ended.

    Raises Ended, Interrupted, or SystemExit with the status of a process.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # what the agent has to say is said here, in one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    os.environ[LAUNCH] = place
    group = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any port that is free
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
    )
    try:
        elastic_launch(group, sys.executable)(sys.argv[0], *words_of_ranks(config))
    except SignalException as stop:
        raise Interrupted(stop.sigval) from None
    except ChildFailedError as error:
        if (status := over()) is not None:
            raise SystemExit(status) from None
        rank, failure = error.get_first_failure()
        died = failure.exitcode < 0
        how = f"was killed by {signal.Signals(-failure.exitcode).name}" if died else "ended with an error"
        directory = RunDirectory(Path(config.resume or config.hydra.run.dir))
        what_next = f"; to resume: {directory.resume_command}" if directory.newest else ""
        raise Ended(f"process {rank} of {devices} {how}{what_next}") from None
