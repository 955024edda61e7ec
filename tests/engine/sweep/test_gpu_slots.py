"""Places on GPUs: real processes, which wait for each other and die, and GPUs that there are not."""

import os
import select
import subprocess
import sys

import pytest

from engine.sweep import gpu_slots
from tests.support.runs import ROOT

JOB = """
import os, sys
from pathlib import Path
from engine.sweep import gpu_slots as slots
directory, jobs_per_gpu = Path(sys.argv[1]), int(sys.argv[2])
print("asks", flush=True)
with slots.gpu_slot(slots.gpus(), jobs_per_gpu=jobs_per_gpu, directory=directory):
    assert "torch" not in sys.modules
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def begin(tmp_path):
    """Begin a process that takes a place on one of two GPUs, says which, and holds it until it is told to end."""
    begun = []

    def run(*, jobs_per_gpu: int = 1) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", JOB, str(tmp_path / "locks"), str(jobs_per_gpu)]
        begun.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, gpu_slots.VISIBLE: "4,7"}, **pipes))
        assert begun[-1].stdout.readline() == "asks\n"
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def test_a_job_that_finds_no_free_gpu_waits_until_another_has_ended_or_died(begin):
    first, second = begin(), begin()
    places = {first.stdout.readline(): first, second.stdout.readline(): second}
    assert places.keys() == {"4\n", "7\n"}
    third = begin()
    assert not select.select([third.stdout], [], [], 1.5)[0]
    places["7\n"].kill()
    assert third.stdout.readline() == "7\n"
    fourth = begin()
    places["4\n"].communicate("end\n", timeout=20)
    assert fourth.stdout.readline() == "4\n"


def test_small_jobs_share_a_gpu_once_every_gpu_has_one(begin):
    found = [begin(jobs_per_gpu=2).stdout.readline().strip() for _ in range(4)]
    assert found == ["4", "7", "4", "7"]


def test_the_next_job_of_a_process_stays_on_its_gpu(monkeypatch, tmp_path):
    """CUDA has begun there, and another value would come too late."""
    monkeypatch.setenv(gpu_slots.VISIBLE, "4,7")
    for _ in range(2):
        with gpu_slots.gpu_slot(["7", *gpu_slots.gpus()][-1:], jobs_per_gpu=1, directory=tmp_path):
            assert gpu_slots.gpus() == ["7"]
    assert gpu_slots.gpus() == ["7"]


def test_the_gpus_are_those_of_the_environment_or_of_the_driver(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n[ $1 = --query-gpu=index ] && printf '0\\n1\\n2\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(gpu_slots.VISIBLE, raising=False)
    assert gpu_slots.gpus() == ["0", "1", "2"]
    program.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert gpu_slots.gpus() == []
    for value, names in {"": [], "-1": [], "1": ["1"], "GPU-5c,MIG-2/7/0": ["GPU-5c", "MIG-2/7/0"]}.items():
        monkeypatch.setenv(gpu_slots.VISIBLE, value)
        assert gpu_slots.gpus() == names


def test_without_a_gpu_nothing_is_locked(tmp_path):
    with gpu_slots.gpu_slot([], jobs_per_gpu=1, directory=tmp_path / "locks"):
        assert not (tmp_path / "locks").exists()


def test_locks_that_cannot_be_kept_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(gpu_slots.GpuSlotError, match="no GPU lock can be created there") as raised:
        gpu_slots.gpu_slot(["0"], jobs_per_gpu=1, directory=tmp_path / "file").__enter__()
    assert "\n" not in str(raised.value)
