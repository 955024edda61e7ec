"""One run in several processes: the same result as in one, and one end for all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import torch

from data.loader import TrainLoader, share
from data.mixing.cutmix import CutMix
from data.mixing.mixup import Mixup
from tests.support.commands import answer
from tests.support.images import NORMALIZE, OPERATIONS, numbered
from tests.support.marks import slow_except
from tests.support.ranks import MASKED, PROCESSES, SECONDS, SETTINGS, Group, records, wait_for, weights
from tests.support.runs import ROOT, same

PROCESSES.set_forkserver_preload(
    ["torch", "hydra", "hypothesis", "pytest", "train", "engine.training.fit", "engine.logging.summary"]
)


@pytest.fixture
def begin():
    """Start train.py as a user would; what still runs at the end of the test is stopped."""
    begun = []

    def begin(*words: str, directory: Path, by: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
        words = (*by, str(ROOT / "train.py"), *SETTINGS, *words, f"hydra.run.dir={directory}")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        begun.append(subprocess.Popen([sys.executable, *words], env=environment, text=True, **pipes))
        return begun[-1]

    yield begin
    for process in begun:
        process.terminate()  # a launcher then ends its processes
        if not process.stdout.closed:
            process.communicate()


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[int], Path]:
    """The directory of the same run in so many processes, which is made once."""
    place = tmp_path_factory.mktemp("runs")

    @cache
    def directory(count: int) -> Path:
        assert Group(count, directory=place / str(count)).end() == [0] * count
        return place / str(count)

    return directory


def require_same_curve(found: Path, wanted: Path) -> None:
    """Two runs must have come to the same up to rounding."""
    assert len(records(found)) == len(records(wanted)) == 2
    for mine, theirs in zip(records(found), records(wanted), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
    mine, theirs = weights(found)["model"], weights(wanted)["model"]
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("count", slow_except([2], [2, 3]))
def test_several_processes_give_the_curve_of_one(runs, count):
    require_same_curve(runs(count), runs(1))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_a_run_goes_on_with_another_number_of_processes(runs, before, after, tmp_path):
    run = shutil.copytree(runs(before), tmp_path / "run")
    (run / "checkpoints" / "last.pt").unlink()  # the one before is of the first epoch
    assert Group(after, f"resume={run}", f"trainer.devices={after}", directory=run).end() == [0] * after
    require_same_curve(run, runs(1))


@pytest.mark.slow
def test_batch_norm_of_each_process_by_itself(runs, tmp_path):
    run = tmp_path / "run"
    assert Group(2, "trainer.sync_batch_norm=false", directory=run).end() == [0, 0]
    found, wanted = (weights(one)["model"]["stem.1.running_mean"] for one in (run, runs(1)))
    assert (found - wanted).abs().max() > 1e-3


@pytest.mark.slow
def test_on_a_signal_to_any_of_them_all_stop_at_one_step_and_go_on_bitwise(tmp_path):
    """With three processes: only from three on does the order of sums depend on where in a message they stand."""
    words = (MASKED, "trainer.max_epochs=4", "trainer.checkpoint_every_steps=1")
    undisturbed, stopped = (tmp_path / name for name in ("undisturbed", "stopped"))
    assert Group(3, *words, directory=undisturbed).end() == [0, 0, 0]
    group = Group(3, *words, directory=stopped)
    wait_for((stopped / "checkpoints" / "previous.pt").exists, group.is_running)
    os.kill(group.ranks[1].pid, signal.SIGINT)
    assert group.end() == [130, 130, 130]
    assert weights(stopped)["step"] < weights(undisturbed)["step"]
    assert Group(3, *words, f"resume={stopped}", directory=stopped).end() == [0, 0, 0]
    assert same((weights(stopped), records(stopped)), (weights(undisturbed), records(undisturbed)))


@pytest.mark.slow
def test_where_one_is_killed_the_other_ends_at_once_and_says_so(tmp_path):
    group = Group(2, "trainer.max_epochs=1000", directory=tmp_path / "run")
    wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, group.is_running)
    group.ranks[1].kill()
    killed = time.monotonic()
    assert group.end() == [1, -signal.SIGKILL]
    assert time.monotonic() - killed < 20
    (said,) = group.errors.read_text().splitlines()
    assert "another process of this run has ended" in said


@pytest.mark.slow
def test_all_diverge_together_and_one_says_so(tmp_path):
    group = Group(2, "optimizer.lr=1000", "optimizer.momentum=0.99", directory=tmp_path / "run")
    assert group.end() == [1, 1]
    (said,) = group.errors.read_text().splitlines()
    assert "learning rate" in said


def child_of(process: subprocess.Popen, rank: int) -> int:
    """The process of a rank that a launcher has started."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError("there is no such process")


@pytest.mark.slow
def test_a_killed_process_ends_all_with_one_line(begin, tmp_path):
    process = begin("trainer.devices=2", "trainer.max_epochs=1000", directory=tmp_path / "run")
    wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, lambda: process.poll() is None)
    os.kill(child_of(process, 1), signal.SIGKILL)
    _, trouble = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "process 1 of 2 was killed by SIGKILL; to resume: python train.py resume=" in trouble.splitlines()[-1]


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_and_one_says_how_to_go_on(begin, tmp_path):
    process = begin("trainer.devices=2", "trainer.max_epochs=1000", directory=tmp_path / "run")
    wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    said, trouble = process.communicate(timeout=SECONDS)
    assert (process.returncode, trouble) == (130, "")
    assert said.count("to resume: python train.py resume=") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trainer.batch_size=auto", "trainer.devices=2: trainer.batch_size=auto"),
        ("trainer.compile=true", "trainer.devices=2: trainer.compile=true"),
        ("lr_find=true", "trainer.devices=2: lr_find=true"),
        ("-m seed=0,1", "trainer.devices=2: each job of a sweep uses one process"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert said in answer("train.py", f"trainer.devices=2 {words}", monkeypatch, capsys)


def test_where_several_machines_are_asked_for_the_answer_is_torchrun(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words, flag in (
        ("nodes=2", "nnodes"),
        ("rendezvous=here:1", "rdzv-endpoint"),
        ("max_restarts=1", "max-restarts"),
    ):
        said = answer("train.py", f"trainer.devices=2 trainer.{words}", monkeypatch, capsys)
        assert f"several machines, and restarts, are torchrun's: torchrun --{flag}" in said


@pytest.mark.slow
def test_a_worker_that_is_killed_on_one_of_two_machines_is_restarted(begin, tmp_path):
    """Two agents of torchrun, as two machines have them: after one worker is killed, all resume to the same result."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    several = ("--nnodes=2", "--nproc-per-node=1", f"--rdzv-endpoint={meeting}", "--rdzv-backend=c10d", "--rdzv-id=run")
    by = ("-m", "torch.distributed.run", *several, "--max-restarts=1")
    words = (MASKED, "trainer.max_epochs=4", "trainer.checkpoint_every_steps=1")
    undisturbed, killed = (tmp_path / name for name in ("undisturbed", "killed"))
    agents = [
        begin(*words, "resume=auto", directory=killed, by=by, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1") for _ in range(2)
    ]
    wait_for((killed / "checkpoints" / "previous.pt").exists, lambda: agents[0].poll() is None)
    child = int(Path(f"/proc/{agents[1].pid}/task/{agents[1].pid}/children").read_text().split()[0])
    os.kill(child, signal.SIGKILL)
    assert Group(2, *words, directory=undisturbed).end() == [0, 0]
    said = [process.communicate(timeout=SECONDS) for process in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert same((weights(killed), records(killed)), (weights(undisturbed), records(undisturbed)))


@pytest.mark.slow
def test_torchrun_trains_and_says_a_mistake_once(begin, tmp_path):
    by = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    process = begin(directory=tmp_path / "run", by=by)
    said, trouble = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, trouble
    assert said.count("epoch 2/2") == 1
    process = begin("trainer.max_epoch=3", directory=tmp_path / "wrong", by=by)
    _, trouble = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert trouble.count("train.py: trainer.max_epoch: no such key") == 1
