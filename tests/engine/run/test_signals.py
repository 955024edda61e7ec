"""Signals that ask a run to stop."""

import signal

import pytest

from engine.run import signals
from engine.run.signals import Interrupted, Signals, StopRequest, raise_if_signalled


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
