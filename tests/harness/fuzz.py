"""Spoilt files for what reads files, as many as time allows: python -m tests.harness.fuzz --minutes 10

Each target has valid files. They are spoilt (bits, numbers, pieces cut out, doubled or put from one into another,
instructions in between, now and then nothing but chance) and read in processes of their own, with little memory, so
that one that dies or never ends is counted and replaced. Every file follows from the seed and its number:
`--write 12345` writes that one to standard output. What is neither read nor refused ends the program with status 1.
"""

import argparse
import io
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir

from engine.config.did_you_mean import CONF
from engine.device.memory import memory_explained
from engine.run.directory import RunDirectory
from engine.run.errors import RunError

# What the checkpoint is of.
SMALL = [
    "dataset=shapes",
    "dataset.train_size=20",
    "dataset.test_size=10",
    "model=resnet20",
    "model.widths=[2,2,2]",
    "model.depths=[1,1,1]",
    "regularization=[weight_decay,ema]",
    "trainer.batch_size=10",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "trainer.memory_format=channels_last",
]
HANGS_SECONDS = 20
SPARE_BYTES = 1 << 30  # that a reader may have beside what it has when it begins
NUMBERS = [0, 1, 2, 127, 128, 255, 256, (1 << 15) - 1, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


@dataclass(frozen=True)
class Target:
    """What is tried: valid files, pieces that mean something in them, what reads one, and how it refuses."""

    valid: Sequence[bytes]
    pieces: Sequence[bytes]
    read: Callable[[Path], object]
    refusal: type[Exception]

    def spoilt(self, seed: int, number: int) -> bytes:
        """The file of a number, which follows from nothing else."""
        chance = random.Random(f"{seed} {number}")
        if chance.random() < 0.03:
            return chance.randbytes(chance.randrange(300))
        content = chance.choice(self.valid)
        for _ in range(chance.choice([1, 1, 1, 2, 3, 5, 8])):
            content = self.once_more(content, chance)
        return content

    def once_more(self, content: bytes, chance: random.Random) -> bytes:
        """Content with one more fault."""
        start, end = sorted((place(content, chance), place(content, chance)))
        before, within, after = content[:start], content[start:end], content[end:]
        match chance.randrange(10):
            case 0 | 1:  # a bit
                bit = 1 << chance.randrange(8)
                return before + bytes(byte ^ bit for byte in content[start : start + 1]) + content[start + 1 :]
            case 2 | 3:  # a number
                size = chance.choice([1, 2, 4, 8])
                number = chance.choice([*NUMBERS, chance.getrandbits(64)]) % (1 << 8 * size)
                return before + number.to_bytes(size, "little") + content[start + size :]
            case 4:  # the end is missing
                return before
            case 5:  # a piece is missing
                return before + after
            case 6:  # a piece is there several times
                return before + within[:200] * chance.choice([2, 3, 100]) + after
            case 7:  # what means something is where it should not be
                return before + chance.choice(self.pieces) + content[start:]
            case 8:  # chance is
                return before + chance.randbytes(chance.randrange(1, 9)) + content[start:]
            case _:  # the end of another file
                other = chance.choice(self.valid)
                return before + other[place(other, chance) :]


def place(content: bytes, chance: random.Random) -> int:
    """A position: half of them near the beginning or the end, where there is more than pixels."""
    near = chance.randrange(min(300, len(content)) + 1)
    return chance.choice([near, len(content) - near, *[chance.randrange(len(content) + 1)] * 2])


def outcome(target: Target, content: bytes, directory: Path) -> str:
    """How reading ends: "read", "refused", or what was raised, and where."""
    file = directory / "file"
    file.write_bytes(content)
    try:
        target.read(file)
    except target.refusal as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"refused in several lines: {error!r}"
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:500]} (at {Path(at.filename).name}:{at.lineno})"
    return "read"


def checkpoint() -> Target:
    """A run's checkpoint: as evaluate.py takes it, to a network with its weights.

    Since a checksum tells of most that happens to a file, half of the files are what in an archive describes the
    rest, and are put into one with the right checksums.
    """
    import torch

    from engine.build import from_checkpoint, training  # and so on: seconds, for which what reads data need not wait
    from engine.config.command import register_resolvers
    from engine.training.checkpoint_file import read as read_checkpoint

    register_resolvers()
    torch.set_num_threads(1)  # those of this process are not there in its copies
    with tempfile.TemporaryDirectory() as directory, initialize_config_dir(str(CONF), version_base="1.3"):
        run = RunDirectory(Path(directory))
        parts = training.parts(compose("config", overrides=SMALL), run, keep_data=False)
        parts.checkpoints.save("last", parts.state)
        whole = run.last.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    described_in = next(name for name in members if name.endswith("/data.pkl"))

    def read(file: Path) -> None:
        if not file.read_bytes().startswith(b"PK"):
            described = file.read_bytes()
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in (members | {described_in: described}).items():
                    archive.writestr(name, content)
        with memory_explained("this file", helps="none"):
            checkpoint = read_checkpoint(file)
            trained = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu")
            from_checkpoint.eval_data(checkpoint, trained, eval_batch_size=None, root=None)

    return Target(
        valid=[whole, members[described_in], members[described_in]],
        pieces=[
            *[bytes([instruction]) for instruction in b"()]}.012abcdeghijlopqrstuBCFGIJKLMNPQRSTUVX"],
            *[bytes([instruction]) for instruction in range(0x80, 0x99)],
            b"cposix\nsystem\n",
            b"cbuiltins\neval\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch\nFloatStorage\n",
            b"PK\x01\x02",
            b"PK\x05\x06",
            b"\x85" * 100_000,
            b"r\xff\xff\xff\x0f",
        ],
        read=read,
        refusal=RunError,
    )


TARGETS = {"checkpoint": checkpoint}


class Reader:
    """A process that reads every `step`th file from `first` on, what it has seen, and what it is at."""

    def __init__(self, target: Target, *, seed: int, first: int, step: int, until: float):
        context = multiprocessing.get_context("fork")
        self.at, self.read, self.refused = (context.RawValue("q", value) for value in (first, 0, 0))
        self.others = context.SimpleQueue()
        self.since = (first, time.monotonic())
        self.process = context.Process(target=self.run, args=(target, seed, step, until))
        with warnings.catch_warnings():  # of threads, which a copy of this process lacks: it needs none
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()

    def run(self, target: Target, seed: int, step: int, until: float) -> None:
        """Read until the time is over."""
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, size + SPARE_BYTES))
        with tempfile.TemporaryDirectory() as directory:
            while time.monotonic() < until:
                ended = outcome(target, target.spoilt(seed, self.at.value), Path(directory))
                if ended in ("read", "refused"):
                    getattr(self, ended).value += 1
                else:
                    self.others.put((self.at.value, ended))
                self.at.value += step

    def found(self) -> Iterator[tuple[int, str]]:
        """The numbers of the files that ended in other exceptions since this was last asked, with these."""
        while not self.others.empty():
            yield self.others.get()

    def hangs(self) -> bool:
        """Whether it has been at the same file for long."""
        if self.since[0] != self.at.value:
            self.since = (self.at.value, time.monotonic())
        return time.monotonic() - self.since[1] > HANGS_SECONDS


@dataclass
class Tally:
    """What became of the files; `exceptions`, `signals` and `hung` are their numbers and what happened."""

    read: int
    refused: int
    exceptions: list[tuple[int, str]]
    signals: list[tuple[int, str]]
    hung: list[tuple[int, str]]

    @property
    def inputs(self) -> int:
        """All files."""
        return self.read + self.refused + len(self.findings)

    @property
    def findings(self) -> list[tuple[int, str]]:
        """All that is neither read nor refused."""
        return self.exceptions + self.signals + self.hung


def fuzz(target: Target, *, minutes: float, seed: int, workers: int) -> Tally:
    """Read spoilt files in several processes for some time."""
    until, tally = time.monotonic() + 60 * minutes, Tally(0, 0, [], [], [])
    readers = [Reader(target, seed=seed, first=first, step=workers, until=until) for first in range(workers)]
    while readers:
        time.sleep(0.1)
        for reader in list(readers):
            tally.exceptions += reader.found()  # before its pipe is full, which would let it wait
            hangs = reader.hangs()
            if hangs:
                reader.process.kill()
            elif reader.process.is_alive():
                continue
            reader.process.join()
            readers.remove(reader)
            tally.read, tally.refused = tally.read + reader.read.value, tally.refused + reader.refused.value
            tally.exceptions += reader.found()
            if status := reader.process.exitcode:
                number = reader.at.value
                (tally.hung if hangs else tally.signals).append((number, "hangs" if hangs else f"status {status}"))
                readers.append(Reader(target, seed=seed, first=number + workers, step=workers, until=until))
    return tally


def main() -> None:
    """Print the table, in Markdown, and below it what should not have happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="another one, other files")
    parser.add_argument("--workers", type=int, default=2, help="processes that read")
    parser.add_argument("--write", type=int, metavar="NUMBER", help="write the file of this number, and read nothing")
    parser.add_argument("targets", nargs="*", metavar="target", default=list(TARGETS))
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)}: {', '.join(TARGETS)}")
    if arguments.write is not None:
        sys.stdout.buffer.write(TARGETS[arguments.targets[0]]().spoilt(arguments.seed, arguments.write))
        return
    print("| target | minutes | inputs | read | refused | other exceptions | signals | hung | peak memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    findings = []
    for name in arguments.targets:
        tally = fuzz(TARGETS[name](), minutes=arguments.minutes, seed=arguments.seed, workers=arguments.workers)
        figures = [tally.inputs, tally.read, tally.refused, len(tally.exceptions), len(tally.signals), len(tally.hung)]
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        columns = " | ".join(f"{figure:,}" for figure in figures)
        print(f"| {name} | {arguments.minutes:g} | {columns} | {memory:,.0f} |", flush=True)
        findings += [f"{name}, seed {arguments.seed}, input {number}: {text}" for number, text in tally.findings]
    if findings:
        print("", *findings, sep="\n")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
