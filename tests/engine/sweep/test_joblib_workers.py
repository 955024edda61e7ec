"""Signals in a sweep whose jobs run in joblib's workers: the main process, the workers and the launcher."""

import pickle
import runpy
import signal
import sys
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from engine.run import signals
from engine.run.signals import Interrupted, Signals
from engine.sweep.joblib_workers import ForwardedStop, Worker, WorkerTask
from tests.support.runs import ROOT, composed


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test advances, in seconds."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


def test_a_second_signal_does_not_wait_for_the_jobs(capsys, clock, with_sighup):
    """But a SIGHUP that a closing shell sends once more is the same request."""
    with ForwardedStop() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal == signal.SIGHUP
        clock[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().out == "\nthe jobs write their checkpoints and end\n"


def noop(config):
    """A task that returns its config."""
    return config


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """This process as a worker: a function that runs a task there, in the directory of the next job."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    monkeypatch.setattr(Worker, "is_stopped", False)
    started = []

    def run(task):
        directory = tmp_path / f"job{len(started)}"
        started.append(directory)
        (directory / ".hydra").mkdir(parents=True)
        hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(directory)))
        monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
        received = pickle.loads(pickle.dumps(WorkerTask(noop)))
        received.task_function = task
        return received(len(started))

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("in_run", [True, False])
def test_a_worker_that_is_stopped_in_a_job_starts_no_other(worker, tmp_path, in_run):
    """Whether the run handled the signal and passed it on, or had not yet installed its handlers."""

    def task(config):
        if not in_run:
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as interruption, Signals():
            signal.raise_signal(signal.SIGTERM)
        interruption.value.pass_on()
        raise AssertionError("the job continues")

    assert worker(task) is None
    assert worker(noop) is None
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_stopped_between_jobs_starts_no_other(worker, tmp_path):
    assert worker(noop) == 1
    signal.raise_signal(signal.SIGINT)
    assert worker(noop) == 2
    signal.raise_signal(signal.SIGTERM)
    assert worker(noop) is None
    assert {directory.name for directory in tmp_path.iterdir()} == {"job0", "job1"}


def test_a_job_that_exits_for_another_reason_exits_the_worker(worker):
    def task(config):
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        worker(task)
    assert not Worker.is_stopped


def test_in_the_main_process_the_task_changes_no_handler():
    """Joblib runs the jobs there with n_jobs=1."""
    before = [signal.getsignal(number) for number in signals.STOPPING]
    assert WorkerTask(noop)(3) == 3
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


def test_joblib_is_given_no_job_after_a_signal():
    module = sys.modules[type_of("joblib").__module__]
    stop = SimpleNamespace(signal=None)
    jobs = module.UntilStopped([["seed=0"], ["seed=1"], ["seed=2"]], stop)
    assert (len(jobs), list(jobs)) == (3, jobs.jobs)
    remaining = iter(jobs)
    assert next(remaining) == ["seed=0"]
    stop.signal = signal.SIGINT
    assert list(remaining) == []


# The launchers


def type_of(launcher: str) -> type[Launcher]:
    """The class that conf/ names for a launcher, as Hydra finds it."""
    target = composed(f"hydra/launcher={launcher}", hydra=True).hydra.launcher._target_
    return Plugins.instance().class_name_to_class[target]


@pytest.mark.parametrize(
    ("launcher", "package"),
    [("joblib", "hydra_joblib_launcher"), ("submitit_local", "hydra_submitit_launcher")],
)
def test_a_launcher_is_a_subclass_of_the_installed_one_with_its_keys(launcher, package):
    pytest.importorskip(f"hydra_plugins.{package}")
    assert package in {base.__module__.split(".")[1] for base in type_of(launcher).__mro__ if "." in base.__module__}
    keys = composed(f"hydra/launcher={launcher}", hydra=True).hydra.launcher
    assert {"joblib": "pre_dispatch", "submitit_local": "timeout_min"}[launcher] in keys


def test_a_job_on_a_cluster_is_requeued_at_its_time_limit_unless_the_command_forbids_it():
    slurm = "hydra/launcher=submitit_slurm"
    assert composed(slurm, hydra=True).hydra.launcher.max_num_timeout == 1000
    assert composed(slurm, "hydra.launcher.max_num_timeout=3", hydra=True).hydra.launcher.max_num_timeout == 3


@pytest.mark.parametrize("name", ["joblib_launcher", "submitit_launcher"])
def test_a_launcher_can_be_imported_without_its_package(monkeypatch, name):
    """Hydra imports it at every start, also of a run that is no sweep."""
    monkeypatch.setitem(sys.modules, f"hydra_plugins.hydra_{name}.{name}", None)
    module = runpy.run_path(str(ROOT / "hydra_plugins" / f"{name}.py"))
    own = [found for key, found in module.items() if key.startswith("Checkpointing")]
    assert own
    assert all(issubclass(found, Launcher) for found in own)
