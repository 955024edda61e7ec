"""Sweeps by submitit: real jobs in processes of this machine, and a cluster whose commands are scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hydra.core.config_store import ConfigStore

from engine.config.command import initialized
from engine.config.did_you_mean import INSTALLED, check_options
from engine.config.overrides import parse
from engine.run.errors import CommandError
from tests.support.runs import ROOT, SMALL

OPTIONS = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.partition=short",
    "hydra.launcher.timeout_min=90",
    "hydra.launcher.cpus_per_task=4",
    "hydra.launcher.gpus_per_node=1",
    "hydra.launcher.array_parallelism=2",
)

SBATCH = """#!/bin/sh
cp "$1" {place}/script.sh
{then}
"""
REFUSES = "echo 'sbatch: error: invalid partition specified: short' >&2; exit 1"
# Begins both jobs of the array, before it has answered, and once more the one for which scontrol has asked. As SLURM
# does, it runs its own copy of the script: submitit moves the one that it wrote as soon as it has the answer.
BEGINS = """
for task in 0 1; do
  ( export SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1
    again() { sh {place}/script.sh; }
    again; while [ -e {place}/requeued_7_$task ]; do rm {place}/requeued_7_$task; again; done
    touch {place}/ended_7_$task ) > /dev/null 2>&1 &
done
sleep 1
echo Submitted batch job 7
"""
SRUN = """#!/bin/sh
file() { echo "$1" | sed "s/%A/$SLURM_ARRAY_JOB_ID/g; s/%a/$SLURM_ARRAY_TASK_ID/g; s/%t/0/g"; }
while [ "${1#--}" != "$1" ]; do
  case $1 in --output) out=$(file "$2"); shift ;; --error) err=$(file "$2"); shift ;; esac
  shift
done
mkdir -p "$(dirname "$out")"
exec "$@" >> "$out" 2>> "$err"
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
for task in 0 1; do [ -e {place}/ended_7_$task ] && echo "7_$task|FAILED|node" || echo "7_$task|RUNNING|node"; done
"""
SCONTROL = "#!/bin/sh\n[ $1 = requeue ] && touch {place}/requeued_$2\n"


LONG_ENOUGH = ("trainer.max_epochs=20", "dataset.train_size=2000")  # to be found at work


def begin(cwd: Path, *words: str, start_new_session: bool = False, **environment: str) -> subprocess.Popen:
    """A sweep on the small images."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options["start_new_session"] = start_new_session
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *words]
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}, **options)


def job_at_work(place: Path) -> Path:
    """The directory of the first job of a sweep that has a checkpoint."""
    until = time.monotonic() + 120
    while not (found := list(place.glob("*/checkpoints/last.pt"))):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found[0].parent.parent


def log_of(job: Path) -> Path:
    """What a job said, in a file that is called by submitit's number of it."""
    (found,) = [file for file in job.parent.glob(".submitit/*/*_log.out") if job.name in file.read_text()]
    return found


def process_of(job: Path) -> int:
    """The process that does a job: the only one that was begun by submitit and holds that lock."""
    lock = str((job / ".lock").resolve())
    for process in psutil.process_iter():
        try:
            if "submitit.core._submit" in process.cmdline() and any(file.path == lock for file in process.open_files()):
                return process.pid
        except psutil.Error:
            continue
    raise AssertionError(f"nobody is at {job}")


def all_is_well(process: subprocess.Popen, interrupted: Path) -> None:
    """Both jobs were done, the one that was interrupted in two parts, and there is one table."""
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, out + error
    results = [json.loads(file.read_text()) for file in interrupted.parent.glob("*/result.json")]
    assert [result["status"] for result in results] == ["finished"] * 2
    said = log_of(interrupted).read_text()
    assert said.count("epoch 1/20:") == said.count("epoch 20/20:") == 1
    assert "going on" in said
    assert "Requeued job" in said
    assert "written to multirun/s: leaderboard.md" in out
    assert len((interrupted.parent / "leaderboard.csv").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process by its open files")
def test_a_job_whose_time_is_up_begins_again_and_goes_on(tmp_path):
    process = begin(tmp_path, *LONG_ENOUGH, "seed=0,1", "sweep=s", "hydra/launcher=submitit_local")
    job = job_at_work(tmp_path / "multirun" / "s")
    os.kill(process_of(job), signal.SIGUSR2)
    all_is_well(process, job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="submitit begins jobs here on Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_on_this_machine_with_their_checkpoints(tmp_path, number):
    """As a terminal sends it, to all processes of the command; nobody answers with a traceback."""
    words = ("trainer.max_epochs=5000", "seed=0,1", "sweep=s", "sweep_estimate=false", "hydra/launcher=submitit_local")
    process = begin(tmp_path, *words, start_new_session=True)
    place, until = tmp_path / "multirun" / "s", time.monotonic() + 120
    while len(list(place.glob("*/checkpoints/last.pt"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (128 + number, "")
    assert out.splitlines()[-1] == "stopped; to resume: the same command with sweep=s"
    results = [json.loads(file.read_text())["status"] for file in place.glob("*/result.json")]
    assert results == ["interrupted"] * 2


@pytest.fixture
def cluster(tmp_path):
    """SLURM's commands as scripts, first in PATH; `sbatch` keeps what it was given and then does as it is told."""
    directory = tmp_path / "cluster"
    directory.mkdir()

    def commands(then: str) -> dict[str, str]:
        texts = {"sbatch": SBATCH.replace("{then}", then), "srun": SRUN, "sacct": SACCT, "scontrol": SCONTROL}
        for name, text in texts.items():
            (directory / name).write_text(text.replace("{place}", str(directory)))
            (directory / name).chmod(0o755)
        return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}

    return directory, commands


@pytest.mark.slow
def test_sbatch_is_told_what_the_command_says_and_what_it_answers_is_one_line(tmp_path, cluster):
    directory, commands = cluster
    process = begin(tmp_path, "seed=0,1,2", "sweep=s", *OPTIONS, **commands(REFUSES))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines()[1:] == ["train.py: sbatch: error: invalid partition specified: short"]
    script = (directory / "script.sh").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.splitlines()
        if "#SBATCH" in line and "=" in line
    )
    expected = {
        "partition": "short",
        "time": "90",
        "cpus-per-task": "4",
        "gpus-per-node": "1",
        "array": "0-2%2",
        "signal": "USR2@120",
        "open-mode": "append",
        "job-name": "train",
    }
    assert {key: asked[key] for key in expected} == expected
    assert asked["output"] == str(tmp_path / "multirun" / "s" / ".submitit" / "%A_%a" / "%A_%a_0_log.out")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process by its open files")
def test_a_sweep_on_a_cluster_ends_as_one_here(tmp_path, cluster):
    """And a job whose time is up, or that is preempted, is queued again and goes on."""
    _, commands = cluster
    words = (*LONG_ENOUGH, "seed=0,1", "sweep=s", *OPTIONS[:2])
    process = begin(tmp_path, *words, **commands(BEGINS))
    job = job_at_work(tmp_path / "multirun" / "s")
    os.kill(process_of(job), signal.SIGUSR2)
    all_is_well(process, job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for a process by its open files")
def test_a_job_that_is_killed_is_named_and_the_same_command_goes_on(tmp_path, cluster):
    _, commands = cluster
    words = (*LONG_ENOUGH, "seed=0,1", "sweep=s", *OPTIONS[:2])
    process = begin(tmp_path, *words, **commands(BEGINS))
    job = job_at_work(tmp_path / "multirun" / "s")
    os.kill(process_of(job), signal.SIGKILL)
    out, error = process.communicate(timeout=240)
    number = log_of(job).parent.name
    log = f"multirun/s/.submitit/{number}/{number}_0_log.err"
    assert (process.returncode, error) == (1, f"train.py: ended without a result, submitit's {number} ({log})\n"), out
    assert f"{job.name}: running after" in out


def test_where_there_is_no_cluster_or_no_package_one_line_says_so(command, monkeypatch, tmp_path):
    ended = command("train.py", "-m", "seed=0,1", "hydra/launcher=submitit_slurm", PATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "train.py: hydra/launcher=submitit_slurm: this machine has no sbatch and srun; "
        "hydra/launcher=submitit_local needs none\n"
    )
    with initialized(None):
        launchers = ConfigStore.instance().repo["hydra"]["launcher"][INSTALLED]
        monkeypatch.delitem(launchers, "submitit_local.yaml")
        with pytest.raises(CommandError, match="submitit_local: this needs a package, pip install hydra-submitit-l"):
            check_options(parse("hydra/launcher=submitit_local"), ["hydra/launcher"])
