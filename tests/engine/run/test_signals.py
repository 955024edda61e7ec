"""Signals that ask a run to stop, or a sweep whose jobs are beside each other."""

import signal

import pytest

from engine.run import signals
from engine.run.signals import Interrupted, Signals, StopRequest, raise_if_signalled
from engine.sweep.joblib_launcher import HandOn, Worker, execute


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which passes when it is told to."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


def test_a_second_signal_raises_unless_it_is_the_same_request(clock):
    """A group of processes gets it at once, and the first of them hands it on."""
    with StopRequest() as stop:
        raise_if_signalled(stop.signal)
        signal.raise_signal(signal.SIGINT)
        clock[0] += 0.4
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT
        clock[0] += 0.2
        with pytest.raises(Interrupted, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGINT"):
            raise_if_signalled(stop.signal)


def test_what_is_ignored_stays_so(monkeypatch):
    """As Ctrl-C is in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_no_run_heeds_it_a_signal_ends_the_program_and_is_passed_on_to_nobody():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        Interrupted(signal.SIGTERM).pass_on()
        with pytest.raises(KeyboardInterrupt) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_wait_for_the_jobs(capsys, clock, with_sighup):
    """But one that a shell hands on as it ends itself, when its terminal is closed, is the same request."""
    with HandOn() as asked:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert asked.signal == signal.SIGHUP
        clock[0] += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().out == "\nthe jobs write their checkpoints and end\n"


@pytest.fixture
def job(monkeypatch):
    """A worker's jobs: what is called in place of each, and how many there were."""
    core = pytest.importorskip("hydra_plugins.hydra_joblib_launcher._core")
    monkeypatch.setattr(Worker, "asked", False)
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    done = []

    def do(work):
        monkeypatch.setattr(core, "execute_job", lambda number: (done.append(number), work())[1])
        return done

    yield do
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("heeded", [True, False])
def test_a_worker_that_was_asked_to_stop_in_a_job_begins_no_other(job, heeded):
    """Whether the run heeded the signal, and passed it on, or it came before one could."""

    def work():
        if not heeded:
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as interruption, Signals():
            signal.raise_signal(signal.SIGTERM)
        interruption.value.pass_on()
        raise AssertionError("the job goes on")

    done = job(work)
    execute(1)
    execute(2)
    assert done == [1]


def test_a_worker_that_was_asked_to_stop_between_jobs_begins_no_other(job):
    done = job(lambda: "returned")
    assert execute(1) == "returned"
    signal.raise_signal(signal.SIGINT)
    assert execute(2) == "returned"
    signal.raise_signal(signal.SIGTERM)
    execute(3)
    assert done == [1, 2]


def test_a_job_that_exits_for_another_reason_does_so(job):
    def work():
        raise SystemExit(2)

    job(work)
    with pytest.raises(SystemExit):
        execute(1)
    assert not Worker.asked
