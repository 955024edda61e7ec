"""The processes of a run that shall have several: trainer.devices on each of trainer.nodes machines.

torch's elastic launcher starts them, kills all where one has died, and lets them begin again. What runs in
each is the same command, which torchrun could have started as well.
"""

import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from engine.config.overrides import key_of
from engine.config.resume import going_on, quoted
from engine.device.memory import memory_explained
from engine.distributed.network import answers, can_listen, heeding_silence, interface_of, own_address, split
from engine.run.directory import RunDirectory
from engine.run.errors import RunError
from engine.run.exit import leave
from engine.run.process import LAUNCH, is_one_of_several, leads, over
from engine.run.signals import Interrupted, Signals

PORT = 29400  # where machines meet that SLURM has chosen, unless trainer.rendezvous says another

MEETING = 60  # seconds in which the machine where all meet must begin

RETURN = 900  # seconds in which a machine that is lost must be back


class Ended(RunError):
    """The processes of a run have ended before it; the message is one line that says how."""

    status = 1


class MeetingLost(Ended):
    """The machine on which all meet has ended or cannot be reached; the message is one line."""


def launch(configs: Sequence[DictConfig]) -> None:
    """Run the command in as many processes as its configuration asks for, and exit as they do.

    Where that is one, or this is one of them, nothing happens; jobs of a sweep have one process each.
    """
    if len(configs) != 1 or is_one_of_several():
        return
    (config,) = configs
    try:
        devices, nodes = count_devices(config), count_nodes(config)
        if devices * nodes > 1:
            with Signals(), tempfile.TemporaryDirectory() as place:
                run(config, devices, nodes, place)
            raise SystemExit(0)
    except RunError as error:
        leave(error)
    except Interrupted as interruption:
        raise SystemExit(interruption.exit_status) from None


@contextmanager
def joined(run: RunDirectory, device: str, model: str) -> Iterator[tuple[RunDirectory, Any]]:
    """Within, this process is one of the ranks of a run (engine/distributed/ranks.py), which may be the only one.

    The first of them holds the run's directory, and all get its name. Where there is not memory enough for `model`,
    OutOfMemory says so.
    """
    with run.in_use() if leads() else nullcontext(), memory_explained(f"model={model}"):
        from engine.distributed import ranks

        with ranks.joined(device) as ranks:
            yield ranks.of_first(lambda: run), ranks


def count_devices(config: DictConfig) -> int:
    """Processes on this machine: as many as are asked for, or one for each GPU."""
    if config.trainer.devices != "auto":
        return config.trainer.devices
    import torch

    return max(torch.cuda.device_count(), 1) if config.trainer.device in ("auto", "cuda") else 1


def count_nodes(config: DictConfig) -> int:
    """Machines: as many as are asked for, or as SLURM has given to this job step."""
    if config.trainer.nodes != "auto":
        return config.trainer.nodes
    return int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))


def meeting_place(config: DictConfig, nodes: int) -> str:
    """HOST:PORT where the machines meet. Raises RunError where nothing tells, or something else."""
    if nodes == 1:
        return "localhost:0"  # any port that is free
    if where := config.trainer.rendezvous:
        if not re.fullmatch(r"\S+:\d+", where):
            raise RunError(f"trainer.rendezvous={where}: not HOST:PORT")
        return where
    listed = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST", ""))
    if not listed:
        raise RunError(f"trainer.nodes={nodes}: trainer.rendezvous=HOST:PORT must say where they meet")
    return f"{first_host(listed)}:{PORT + int(os.environ.get('SLURM_JOB_ID', '0')) % 1000}"


def first_host(listed: str) -> str:
    """The first name in a list as SLURM writes it: node[007-009,12],other is node007."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.match(r"[^,\[]*(\[[^\]]*\])?[^,]*", listed)[0])


def among_machines(where: str) -> tuple[str | None, dict[str, Any]]:
    """This machine's address for the others, and how they meet at HOST:PORT; gloo is told the interface."""
    address = own_address(split(where)[0])
    if address and (interface := interface_of(address)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    return address, {"is_host": can_listen(where), "join_timeout": RETURN}


def words_of_ranks(config: DictConfig) -> list[str]:
    """The command's arguments for each process, in which the directory is settled."""
    directory = ("hydra.run.dir", "hydra.output_subdir")
    if config.resume:
        return [word for word in sys.argv[1:] if key_of(word) not in directory]
    words = [word for word in sys.argv[1:] if key_of(word) != "hydra.run.dir"]
    return [*words, f"hydra.run.dir='{quoted(Path(config.hydra.run.dir))}'"]


def run(config: DictConfig, devices: int, nodes: int, place: str) -> None:
    """Start the processes and wait for them. Raises Ended, Interrupted, or SystemExit with the status of a rank.

    Where the machine on which all meet is lost, this one's processes end; it waits for that machine, and all go on.
    """
    where = meeting_place(config, nodes)
    logging.disable(logging.ERROR)  # what the launcher has to say is said here, in one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    os.environ[LAUNCH] = place
    # Ranks that begin again would otherwise find the addresses of those that died.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    words = words_of_ranks(config)
    if nodes == 1:
        return begin(config, words, devices, where, max_restarts=config.trainer.max_restarts)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns of each machine lost, with its calls' addresses
    patience = MEETING
    for left in reversed(range(config.trainer.max_restarts + 1)):
        address, rendezvous = among_machines(where)
        if not (rendezvous["is_host"] or answers(where, patience)):
            raise Ended(f"the processes could not meet at {where}: nobody answers there for {patience} s")
        among = {"max_restarts": left, "nodes": nodes, "local_addr": address, "rdzv_configs": rendezvous}
        try:
            with heeding_silence():
                return begin(config, words, devices, where, **among)
        except MeetingLost as lost:
            if not left:
                raise
            print(f"train.py: {lost}; waiting for it, {RETURN // 60} minutes at most", file=sys.stderr, flush=True)
            patience, words = RETURN, going_on(words)


def begin(config: DictConfig, words: Sequence[str], devices: int, where: str, *, nodes: int = 1, **among: Any) -> None:
    """Start the processes of this machine and wait for them. Raises as `run` does, and MeetingLost."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    group = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        run_id=os.environ.get("SLURM_JOB_ID", "cifar"),
        rdzv_backend="c10d",
        rdzv_endpoint=where,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
        **among,
    )
    try:
        elastic_launch(group, sys.executable)(sys.argv[0], *words)
    except SignalException as stop:
        raise Interrupted(stop.sigval) from None
    except (ChildFailedError, RendezvousError, OSError) as error:
        if (status := over()) is not None:
            raise SystemExit(status) from None
        if isinstance(error, RendezvousConnectionError):
            raise MeetingLost(f"the machine at {where}, where all meet, is lost") from None
        if not isinstance(error, ChildFailedError):
            said = " ".join(str(error).split())[:150]
            raise Ended(f"the processes could not meet at {where}: {said}") from None
        rank, failure = error.get_first_failure()
        died = failure.exitcode < 0
        how = f"was killed by {signal.Signals(-failure.exitcode).name}" if died else "ended with an error"
        directory = RunDirectory(Path(config.resume or config.hydra.run.dir))
        what_next = f"; to go on: {directory.to_go_on}" if directory.newest else ""
        raise Ended(f"process {rank} of {devices * nodes} {how}{what_next}") from None
