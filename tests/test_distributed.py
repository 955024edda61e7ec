"""One run in several processes: the same result as in one, and one end for all."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL
from test_loader import NORMALIZE, OPERATIONS, numbered
from test_resume import figures, same

from data.loader import TrainLoader, share
from data.mixing.cutmix import CutMix
from data.mixing.mixup import Mixup
from engine.launch import first_host

# 97 images in batches of 31: no number of processes divides one of them.
SETTINGS = (
    *(word for word in SMALL if not word.startswith(("model", "trainer.batch", "dataset.train", "trainer.max_epochs"))),
    "dataset.train_size=107",
    "dataset.val_size=10",
    "model=resnet20",
    "model.depths=[1,1,1]",
    "trainer.batch_size=31",
    "trainer.max_epochs=2",
    "regularization=[weight_decay,cutout,mixup,label_smoothing,ema]",
    "optimizer.lr=0.02",
)
MASKED = "regularization=[weight_decay,dropout,mixup,ema]"


def train(*words: str, directory: Path, begun: bool = False, by: tuple[str, ...] = ()):
    """Run train.py in a directory, or only start it."""
    command = [sys.executable, *by, str(ROOT / "train.py"), *SETTINGS, *words]
    command += [] if any(word.startswith("resume=") for word in words) else [f"hydra.run.dir={directory}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if begun:
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


def records(directory: Path) -> list[dict]:
    """What does not depend on the clock in each epoch's figures."""
    return figures([json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()])


def weights(directory: Path) -> dict:
    """What a run has come to, without its clock."""
    content = torch.load(directory / "checkpoints" / "last.pt", weights_only=True)
    return {name: content["state"][name] for name in ("model", "optimizer", "averages", "step", "random")}


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shares_are_the_batch_and_none_is_a_single_image(count, ranks):
    shares = [list(range(count))[share(count, rank, ranks)] for rank in range(ranks)]
    assert list(chain(*shares)) == list(range(count))
    assert count == 1 or 1 not in map(len, shares)
    filled = [len(images) for images in shares if images]
    assert max(filled) - min(filled) <= 1


@pytest.mark.parametrize(
    "mixings",
    [(), (Mixup(alpha=1.0, probability=0.7, per_image=False), CutMix(alpha=1.0, probability=1.0, per_image=True))],
)
def test_the_shares_of_all_ranks_are_the_batches_of_one(mixings):
    def loader(rank: int = 0, ranks: int = 1) -> TrainLoader:
        return TrainLoader(
            numbered(),
            batch_size=7,
            operations=OPERATIONS,
            mixings=mixings,
            normalize=NORMALIZE,
            num_classes=50,
            seed=0,
            rank=rank,
            ranks=ranks,
        )

    whole = list(loader().epoch(1))
    assert [len(images) for images, _ in whole] == [loader().images_in(step) for step in range(len(whole))]
    for ranks in (2, 3, 5):
        parts = zip(*(loader(rank, ranks).epoch(1) for rank in range(ranks)), strict=True)
        for (images, targets), part in zip(whole, parts, strict=True):
            assert torch.equal(torch.cat([own for own, _ in part]), images)
            assert torch.equal(torch.cat([own for _, own in part]), targets)


def test_one_two_and_three_processes_give_one_curve(tmp_path):
    for count in (1, 2, 3):
        ended = train(f"trainer.devices={count}", directory=tmp_path / str(count))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.count("epoch 2/2") == 1, "one of them speaks"
    alone, *others = (records(tmp_path / str(count)) for count in (1, 2, 3))
    for other in others:
        assert [record.keys() for record in other] == [record.keys() for record in alone]
        for mine, theirs in zip(alone, other, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
    first, second = (weights(tmp_path / name)["model"] for name in "13")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4, msg=name)


def child_of(process: subprocess.Popen, rank: int) -> int:
    """The process of a rank that a launcher has started."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError("there is no such process")


def wait_for(what, process: subprocess.Popen) -> None:
    """Until something is the case; the process must go on meanwhile."""
    until = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_stopped_runs_go_on_bitwise(tmp_path):
    """With three processes: only from three on does the order of sums depend on where in a message they stand."""
    words = ("trainer.devices=3", "trainer.max_epochs=4", MASKED, "trainer.checkpoint_every_steps=1")
    assert train(*words, directory=tmp_path / "undisturbed").returncode == 0
    undisturbed = weights(tmp_path / "undisturbed"), records(tmp_path / "undisturbed")

    killed = train(*words, "trainer.max_restarts=1", directory=tmp_path / "killed", begun=True)
    wait_for((tmp_path / "killed" / "checkpoints" / "previous.pt").exists, killed)
    os.kill(child_of(killed, 1), signal.SIGKILL)
    said, _ = killed.communicate(timeout=60)
    assert killed.returncode == 0
    assert said.count("epoch 4/4") == 1
    assert same((weights(tmp_path / "killed"), records(tmp_path / "killed")), undisturbed)

    stopped = train(*words, directory=tmp_path / "stopped", begun=True)
    wait_for((tmp_path / "stopped" / "checkpoints" / "previous.pt").exists, stopped)
    stopped.send_signal(signal.SIGINT)
    said, trouble = stopped.communicate(timeout=60)
    assert (stopped.returncode, trouble) == (130, "")
    assert said.count("to go on: python train.py resume=") == 1
    assert train(*words, f"resume={tmp_path / 'stopped'}", directory=tmp_path).returncode == 0
    assert same((weights(tmp_path / "stopped"), records(tmp_path / "stopped")), undisturbed)


def test_a_process_that_is_killed_ends_all_with_one_line(tmp_path):
    process = train("trainer.devices=2", "trainer.max_epochs=1000", directory=tmp_path / "run", begun=True)
    wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, process)
    os.kill(child_of(process, 1), signal.SIGKILL)
    begun = time.monotonic()
    _, trouble = process.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    assert process.returncode == 1
    assert "process 1 of 2 was killed by SIGKILL; to go on: resume=" in trouble.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("optimizer.lr=1000", "optimizer.momentum=0.99", "trainer.max_restarts=2"), 1, "learning rate"),
        (("trainer.batch_size=auto",), 2, "train.py: trainer.devices=2: trainer.batch_size=auto"),
        (("trainer.compile=true",), 2, "train.py: trainer.devices=2: trainer.compile=true"),
        (("lr_find=true",), 2, "train.py: trainer.devices=2: lr_find=true"),
        (("trainer.nodes=2",), 2, "train.py: trainer.nodes=2: trainer.rendezvous=HOST:PORT"),
    ],
)
def test_what_cannot_be_is_one_line(words, status, said, tmp_path):
    ended = train("trainer.devices=2", *words, directory=tmp_path / "run")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (status, 1), ended.stderr
    assert said in ended.stderr


def test_torchrun_trains_and_says_a_mistake_once(tmp_path):
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    )
    ended = train(directory=tmp_path / "run", by=torchrun)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 2/2") == 1
    ended = train("trainer.max_epoch=3", directory=tmp_path / "wrong", by=torchrun)
    assert ended.returncode == 1
    assert ended.stderr.count("train.py: trainer.max_epoch: no such key") == 1


@pytest.mark.parametrize(
    ("listed", "host"),
    [("node[007-009,12],other", "node007"), ("one", "one"), ("a-1,b-2", "a-1"), ("rack[2]-gpu,x", "rack2-gpu")],
)
def test_the_first_of_slurms_machines(listed, host):
    assert first_host(listed) == host
