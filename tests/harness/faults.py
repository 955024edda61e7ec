"""What can befall a run, done to it and counted: python -m tests.harness.faults [--kills 100]

Runs of `python train.py` on generated images are killed, starved of disk and memory, and given damaged files.
"Survived" is a fault after which the run, continued, ends with bitwise the same weights, figures and curves as
one that was never disturbed, or where that cannot be, one clear line and everything that was computed before.
"""

import argparse
import ctypes
import hashlib
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.cifar import Archive, provide
from data.download import md5sum
from engine.config.did_you_mean import ROOT
from engine.run.directory import RunDirectory
from engine.training.checkpoint_file import CheckpointError, read, read_newest
from tests.harness.mirror import mirror

# Every kind of state is in use, and a checkpoint is written after every step: 12 steps of 32 images.
SETTINGS = (
    "dataset=shapes",
    "dataset.train_size=100",
    "dataset.test_size=100",
    "model=resnet20",
    "model.depths=[1,1,1]",
    "regularization=[weight_decay,dropout,drop_path,cutout,mixup,cutmix,ema,swa,sam]",
    "regularization.swa.start=1",
    "scheduler=cosine",
    "scheduler.warmup_epochs=1",
    "trainer.batch_size=32",
    "trainer.gradient_accumulation=2",
    "trainer.max_epochs=4",
    "trainer.checkpoint_every_steps=1",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.memory_format=channels_last",
)
CLOCKS = {"seconds", "images_per_second", "git_revision"}  # and what changes where somebody works on the source
PATIENCE = 300.0  # seconds until a run counts as hanging


@dataclass
class Ended:
    """A command that has ended: its exit status (negative: the signal that killed it) and what it said."""

    status: int
    out: str
    err: str

    def says(self, status: int, *words: str) -> bool:
        """Whether it ended so, with a single line on standard error (none if the status is 0) that has these words."""
        return (
            self.status == status
            and self.err.count("\n") == (1 if status else 0)
            and all(word in self.err for word in words)
        )


def command(arguments: Sequence[str], out: Path, limits: dict[int, int]) -> None:
    """`python train.py` in this process, with its output in pipes, which no limit on files reaches."""
    os.setpgid(0, 0)
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    for number, kind in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(out.with_suffix(kind), os.O_WRONLY), number)
    sys.argv = ["train.py", *arguments]
    torch.set_num_threads(1)
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


class Harness:
    """Starts runs, and knows how the undisturbed one ends. Processes begin with everything imported."""

    def __init__(self, home: Path, seed: int = 0):
        self.home = home
        self.random = random.Random(seed)
        self.started = self.made = 0
        self.pipes: dict[tuple[Path, str], int] = {}
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(
            [
                "torch._dynamo",
                "engine.build.objects",
                "engine.training.fit",
                "engine.logging.summary",
                "engine.training.lr_find",
            ]
        )

    def start(self, *arguments: str, limits: dict[int, int] | None = None) -> tuple[Any, Path]:
        """Begin a command; the process, and where its output goes."""
        self.started += 1
        out = self.home / f"command{self.started}"
        for kind in (".out", ".err"):
            os.mkfifo(out.with_suffix(kind))
            self.pipes[out, kind] = os.open(out.with_suffix(kind), os.O_RDONLY | os.O_NONBLOCK)
        process = self.processes.Process(target=command, args=(arguments, out, limits or {}))
        process.start()
        return process, out

    def end(self, process: Any, out: Path) -> Ended:
        """Wait for a command."""
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
            return Ended(-signal.SIGALRM, "", "it hung")
        pipes = [self.pipes.pop((out, kind)) for kind in (".out", ".err")]
        said = [os.read(pipe, 1 << 16).decode() for pipe in pipes]  # as much as a pipe holds
        for pipe in pipes:
            os.close(pipe)
        return Ended(process.exitcode, *said)

    def run(self, *arguments: str, limits: dict[int, int] | None = None) -> Ended:
        """A command from its beginning to its end."""
        return self.end(*self.start(*arguments, limits=limits))

    def new(self, name: str) -> RunDirectory:
        """A directory for a run, which is not there yet."""
        self.made += 1
        return RunDirectory(self.home / f"{name}-{self.made}")

    def train(self, run: RunDirectory, *more: str, **options: Any) -> Ended:
        """The run of SETTINGS in a directory, from its beginning."""
        return self.run(*SETTINGS, *more, f"hydra.run.dir={run.path}", **options)

    def resume(self, run: RunDirectory, *more: str, **options: Any) -> Ended:
        """The run goes on."""
        return self.run(f"resume={run.path}", *more, **options)

    def go_on(self, run: RunDirectory) -> tuple[Any, Path]:
        """Begin the run of SETTINGS in a directory, or take it up again where there is a checkpoint."""
        return self.start(f"resume={run.path}") if run.newest else self.start(*SETTINGS, f"hydra.run.dir={run.path}")

    @staticmethod
    def wait_for(process: Any, file: Path) -> None:
        """Until a file is there, or the process has ended."""
        while not file.exists() and process.is_alive():
            time.sleep(0.01)

    @cached_property
    def seconds(self) -> float:
        """How long the run of SETTINGS takes, once everything is imported."""
        assert self.undisturbed
        begun = time.monotonic()
        self.train(self.new("timed"))
        return time.monotonic() - begun

    @cached_property
    def undisturbed(self) -> dict[str, Any]:
        """How the run of SETTINGS ends."""
        run = self.new("undisturbed")
        ended = self.train(run)
        if ended.status:
            raise SystemExit(f"the undisturbed run ends with {ended.status}: {ended.err}")
        return outcome(run)

    def ends_alike(self, run: RunDirectory) -> bool:
        """Whether a run has ended as the undisturbed one does."""
        found = list(differences(self.undisturbed, outcome(run)))
        for place in found[:3]:
            print(f"{run.path} differs in {place}", file=sys.stderr)
        return not found

    def stopped_midway(self) -> RunDirectory:
        """A run that was interrupted after some of its steps, and so has two checkpoints; always the same one."""
        copied = self.new("copy")
        shutil.copytree(self.stopped.path, copied.path)
        return copied

    @cached_property
    def stopped(self) -> RunDirectory:
        """That run, which is only to be copied."""
        run = self.new("stopped")
        process, out = self.go_on(run)
        self.wait_for(process, run.previous)
        os.kill(process.pid, signal.SIGTERM)
        self.end(process, out)
        return run


def outcome(run: RunDirectory) -> dict[str, Any]:
    """All that a run leaves and that does not depend on the clock."""
    checkpoints = {file.stem: read(file)["state"] for file in (run.last, run.best) if file.exists()}
    for state in checkpoints.values():
        del state["seconds"]
        state["records"] = timeless(state["records"])
    events = EventAccumulator(str(run.tensorboard)).Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    result = json.loads(run.result.read_text())
    return {
        "checkpoints": checkpoints,
        "metrics": timeless([json.loads(line) for line in run.metrics.read_text().splitlines()]),
        "result": timeless([result])[0],
        "curves": {tag: points for tag, points in curves.items() if not tag.startswith("speed")},
    }


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures without those of the clock."""
    return [{name: value for name, value in record.items() if name not in CLOCKS} for record in records]


def differences(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """Where two nested values differ, tensors compared bit by bit."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from differences(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        for place, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, f"{where}/{place}")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield where
    elif first != second:
        yield f"{where}: {str(first)[:200]} and {str(second)[:200]}"


@dataclass
class Count:
    """How often a fault was tried and survived, and what else is to be said of it."""

    tried: int = 0
    survived: int = 0
    remarks: list[str] = field(default_factory=list)

    def add(self, survived: bool, otherwise: object = "") -> None:
        """Count one; where it was not survived, `otherwise` says what happened."""
        self.tried += 1
        self.survived += survived
        if not survived:
            self.remarks.append(f"LOST: {otherwise}")

    def lose(self, otherwise: object) -> None:
        """Take one back that was counted as survived."""
        self.survived -= 1
        self.remarks.append(f"LOST: {otherwise}")


# The faults


def kills(harness: Harness, times: int) -> Count:
    """Runs are killed, each ten times at random moments, and resumed each time; the end is bit-exact."""
    count, writing = Count(), 0
    while count.tried < times:
        run = harness.new("killed")
        for _ in range(min(10, times - count.tried)):
            process, _ = harness.go_on(run)
            had_begun = run.newest is not None
            process.join(harness.random.uniform(0, harness.seconds))
            if harness.random.random() < 0.5:  # and then at the next moment when a checkpoint is being written
                while process.is_alive() and not any(run.path.glob("checkpoints/*.part")):
                    pass
            if not process.is_alive():
                break
            process.kill()
            process.join()
            writing += any(run.path.glob("checkpoints/*.part"))
            count.add(not had_begun or is_sound(run), f"{run.path} has no sound checkpoint")
        ended = harness.end(*harness.go_on(run))
        if ended.status or not harness.ends_alike(run):
            count.lose(f"{run.path} ends otherwise, with {ended.status} {ended.err}")
    count.remarks.append(f"{writing} of them while a checkpoint was being written")
    return count


def is_sound(run: RunDirectory) -> bool:
    """Whether there is a checkpoint to go on from."""
    try:
        read_newest(run)
    except CheckpointError:
        return False
    return True


def signals(harness: Harness, times: int) -> Count:
    """A signal finishes the step and saves; the run resumes bit-exactly. A second one stops at once."""
    count = Count()
    kinds = [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGUSR1, 1)] * times
    for number, signals in kinds:
        run = harness.new("signalled")
        process, out = harness.go_on(run)
        harness.wait_for(process, run.last)
        for _ in range(signals):
            os.kill(process.pid, number)
        ended = harness.end(process, out)
        said = ended.status == 128 + number and f"resume={run.path}" in ended.out and not ended.err
        finished = harness.resume(run)
        count.add(said and not finished.status and harness.ends_alike(run), (number, signals, ended, finished.err))
    return count


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Do something to a file."""
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "truncated":
        content = content[: rng.randrange(1, len(content))]
    elif how == "one bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[:0]
    path.write_bytes(content)


def damaged_checkpoints(harness: Harness, times: int) -> Count:
    """The newest checkpoint is damaged: the run goes on from the one before it, and says so. Both: one line."""
    count = Count()
    for how in ("truncated", "one bit", "empty", "missing"):
        for _ in range(times if how in ("truncated", "one bit") else 1):
            run = harness.stopped_midway()
            damage(run.last, how, harness.random)
            ended = harness.resume(run)
            told = f"{run.last}" in ended.out and f"resuming from {run.previous} instead" in ended.out
            unharmed = how == "one bit" and "instead" not in ended.out  # a bit that means nothing, as in a file's date
            alike = not ended.status and harness.ends_alike(run)
            count.add(alike and (told or unharmed), (how, ended))
    for how in ("truncated", "empty", "missing"):
        run = harness.stopped_midway()
        damage(run.last, how, harness.random)
        damage(run.previous, how, harness.random)
        ended = harness.resume(run)
        count.add(ended.says(2, "last.pt" if how != "missing" else "no checkpoint to resume from"), (how, ended))
    return count


def full_disk(harness: Harness, times: int) -> Count:
    """No file may grow beyond some bytes: logs, or checkpoints as well, cannot be written. Later they can again."""
    count = Count()
    for most in (100, 600, 30_000):
        run = harness.stopped_midway()
        before = read_newest(run)[0]["state"]["step"]
        ended = harness.resume(run, limits={resource.RLIMIT_FSIZE: most})
        said = "could not be written" in ended.out or ended.says(2, "nothing can be written")
        intact = is_sound(run) and read_newest(run)[0]["state"]["step"] >= before
        finished = harness.resume(run)
        count.add(
            said and intact and ended.status in (1, 2) and not finished.status and harness.ends_alike(run),
            (most, ended, finished.err),
        )
    return count


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A disk of its own at `path`. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if libc.mount(b"tmpfs", bytes(path), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield
    finally:
        libc.umount2(bytes(path), 2)


def small_disks(harness: Harness, times: int) -> Count:
    """A disk that fills up in the middle of the run, and one that becomes read-only; later there is room again."""
    count, libc = Count(), ctypes.CDLL(None, use_errno=True)
    bind, read_only, remount, lazily = 4096, 1, 32, 2  # MS_BIND, MS_RDONLY, MS_REMOUNT, MNT_DETACH
    for fault in ("full", "read-only"):
        disk = harness.home / f"disk-{fault}"
        run = RunDirectory(disk / "run")
        place = bytes(run.path)
        try:
            with small_disk(disk, "40M"):
                process, out = harness.go_on(run)
                harness.wait_for(process, run.previous)
                if fault == "full":
                    with suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
                        while filler.write(bytes(1 << 12)):
                            pass
                else:  # over itself, since what is open for writing does not become read-only
                    libc.mount(place, place, None, bind, None)
                    libc.mount(None, place, None, bind | remount | read_only, None)
                ended = harness.end(process, out)
                said = "could not be written" in ended.out and ended.says(1, "the last checkpoint could not be written")
                intact = is_sound(run)
                if fault == "full":
                    (disk / "filler").unlink()
                else:
                    libc.umount2(place, lazily)
                finished = harness.resume(run)
                alike = not finished.status and harness.ends_alike(run)
                count.add(said and intact and alike, (fault, ended, finished))
        except PermissionError:
            count.remarks.append("not tried: only root may mount a disk")
            return count
    return count


def deleted_directory(harness: Harness, times: int) -> Count:
    """The run's directory is deleted while it trains: it is recreated, and all but the best epoch so far is in it."""
    count = Count()
    for _ in range(times):
        run = harness.new("deleted")
        process, out = harness.go_on(run)
        harness.wait_for(process, run.last)
        epochs = harness.random.randrange(3)
        while process.is_alive() and run.metrics.read_text().count("\n") < epochs:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)  # else it writes what is just being deleted
        shutil.rmtree(run.path)
        os.kill(process.pid, signal.SIGCONT)
        ended = harness.end(process, out)
        finished = harness.resume(run)
        found, expected = outcome(run), harness.undisturbed
        alike = not any(differences(expected["checkpoints"]["last"], found["checkpoints"]["last"]))
        alike &= not any(differences(expected["metrics"], found["metrics"]))
        alike &= all(found["curves"][tag] == points for tag, points in expected["curves"].items() if "final" not in tag)
        count.add(not ended.status and not finished.status and "was deleted" in ended.out and alike, (ended, finished))
    return count


def no_numbers(harness: Harness, times: int) -> Count:
    """The loss becomes infinite: the run stops and says where, and what there is to go on from; or it goes back."""
    count = Count()
    plain = [word for word in SETTINGS if not word.startswith(("model", "regularization", "scheduler"))]
    wild = ("model=lenet5", "scheduler=constant", "optimizer.lr=1000", "regularization.weight_decay.rate=1")
    words = (*plain, *wild, "trainer.checkpoint_every_steps=0")
    ended = harness.run(*words, f"hydra.run.dir={harness.new('wild').path}")
    count.add(ended.says(1, "loss became", "in step", "of epoch 1, learning rate 1e+03", "no checkpoint yet"), ended)
    back = ("trainer.on_nonfinite=rollback", "trainer.max_epochs=1")  # to the first weights, until the rate is sane
    ended = harness.run(*words, *back, f"hydra.run.dir={harness.new('wild').path}")
    count.add(not ended.status and "going back to step 0, with 0.5 of the learning rate" in ended.out, ended)
    run = harness.stopped_midway()
    words = ("optimizer.lr=1000", "regularization.weight_decay.rate=1", "scheduler=constant", "resume_force=true")
    ended = harness.resume(run, *words)
    count.add(ended.says(1, "the last checkpoint, ", "is of epoch") and is_sound(run), ended)
    return count


def no_memory(harness: Harness, times: int) -> Count:
    """There is less memory than a step wants: one line that says for what, and what helps."""
    count = Count()
    for most in (6 << 30, 8 << 30)[:times]:
        ended = harness.run(
            "dataset=shapes",
            "dataset.train_size=20000",
            "model=wrn28_10",
            "trainer.batch_size=16384",
            "trainer.precision=fp32",
            "trainer.memory_format=channels_last",
            f"hydra.run.dir={harness.new('memory').path}",
            limits={resource.RLIMIT_AS: most},
        )
        count.add(ended.says(1, "out of memory with", "batch", "trainer.gradient_accumulation"), ended)
    return count


def two_at_once(harness: Harness, times: int) -> Count:
    """Two runs want one directory: the second is refused. Two that start together have two directories."""
    count, run = Count(), harness.new("shared")
    process, out = harness.go_on(run)
    harness.wait_for(process, run.last)
    os.kill(process.pid, signal.SIGSTOP)  # so that it does not end meanwhile
    count.add(harness.train(run).says(2, "already contains a run"), "begun anew")
    count.add(harness.resume(run).says(2, f"{run.path} is in use by another process"), "gone on with")
    os.kill(process.pid, signal.SIGCONT)
    count.add(not harness.end(process, out).status and harness.ends_alike(run), "the first")
    home = harness.home / "together"
    started = [harness.start(*SETTINGS, f"hydra.run.dir={home}/${{now:%H-%M-%S}}-${{run_suffix:}}") for _ in range(3)]
    statuses = [harness.end(*one).status for one in started]
    count.add(statuses == [0] * 3 and len(list(home.iterdir())) == 3, statuses)
    return count


def sample_archive(rng: random.Random) -> tuple[Archive, bytes]:
    """An archive like CIFAR's, of some hundred kilobytes, and what stands in its file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("train", "test", "meta"):
            member = tarfile.TarInfo(f"sample/{name}")
            member.size = 100_000
            tar.addfile(member, io.BytesIO(rng.randbytes(member.size)))
    content = packed.getvalue()
    md5 = hashlib.md5(content).hexdigest()
    return Archive("sample.tar.gz", md5, "sample", train={}, test={}, meta={}), content


def provided(archive: Archive, root: Path, mirrors: Sequence[str]) -> None:
    """The archive's files in `root`, quietly, in a process that may be killed."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    provide(archive, root, mirrors)


def downloads(harness: Harness, times: int) -> Count:
    """Two processes want the same files; mirrors cut off or send something else; a process is killed; no network."""
    count = Count()
    archive, content = sample_archive(harness.random)

    def roots() -> Iterator[tuple[Path, Path]]:
        """As many new directories as times, each with the folder that shall be in it."""
        for _ in range(times):
            root = harness.new("data").path
            yield root, root / archive.folder

    def in_process(root: Path, *kinds: str) -> Any:
        arguments = (archive, root, [f"{server.url}/{kind}/file" for kind in kinds])
        process = harness.processes.Process(target=provided, args=arguments)
        process.start()
        return process

    def is_whole(folder: Path) -> bool:
        names = {"train", "test", "meta"}
        return {file.name for file in folder.iterdir()} == names and md5sum(folder.parent / archive.file) == archive.md5

    with mirror(content) as server:
        for root, folder in roots():
            server.requests.clear()
            together = [in_process(root, "slow") for _ in range(2)]
            for process in together:
                process.join(PATIENCE)
            statuses = [process.exitcode for process in together]
            count.add(statuses == [0, 0] and server.requests == ["slow"] and is_whole(folder), ("two", statuses))
        for root, folder in roots():
            server.requests.clear()
            process = in_process(root, "cut", "wrong", "whole")
            process.join(PATIENCE)
            asked = list(dict.fromkeys(server.requests))
            count.add(asked == ["cut", "wrong", "whole"] and is_whole(folder), ("mirrors", server.requests))
        for root, folder in roots():
            process = in_process(root, "slow")
            process.join(harness.random.uniform(0.05, 1.5))
            process.kill()
            process.join()
            process = in_process(root, "whole")
            process.join(PATIENCE)
            count.add(process.exitcode == 0 and is_whole(folder), ("killed", process.exitcode))
    root, begun = harness.new("data").path, time.monotonic()
    ended = harness.run("dataset=cifar10", f"dataset.root={root}", f"dataset.mirrors=[{server.url}/whole/file]")
    told = ended.says(2, "could not be downloaded", f"Put cifar-10-python.tar.gz into {root}")
    count.add(told and time.monotonic() - begun < 5, ("no network", ended))
    return count


FAULTS: dict[str, Callable[[Harness, int], Count]] = {
    "killed at a random moment": kills,
    "asked to stop": signals,
    "damaged checkpoint": damaged_checkpoints,
    "files that cannot grow": full_disk,
    "full or read-only disk": small_disks,
    "directory deleted in the run": deleted_directory,
    "loss that is NaN or inf": no_numbers,
    "too little memory": no_memory,
    "two runs, one directory": two_at_once,
    "downloads": downloads,
}


def main() -> None:
    """Print the table, in Markdown; exit with status 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--times", type=int, default=10, help="of faults at a random place or moment")
    parser.add_argument("--seed", type=int, default=0, help="of the random places and moments")
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], metavar="fault", help=", ".join(FAULTS))
    arguments = parser.parse_args()
    lost = 0
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"  # of what a killed process cannot clear up
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it says whenever a run was taken up again
    print("| fault | tried | survived | lost | |\n| --- | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        harness = Harness(Path(home), arguments.seed)
        for name in arguments.faults or FAULTS:
            count = FAULTS[name](harness, arguments.kills if name.startswith("killed") else arguments.times)
            lost += count.tried - count.survived
            figures = (name, count.tried, count.survived, count.tried - count.survived, "; ".join(count.remarks))
            print(f"| {' | '.join(map(str, figures))} |", flush=True)
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
