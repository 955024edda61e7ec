"""The fuzzer spoils files as it says, and finds what it is there to find: exceptions, dead processes, endless ones."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness import fuzz
from tests.harness.fuzz import TARGETS, Target, outcome
from tests.support.runs import ROOT


@pytest.fixture(params=TARGETS, scope="module")
def target(request) -> Target:
    """Each target."""
    return TARGETS[request.param]()


def test_valid_files_are_read_and_no_two_spoilt_ones_are_alike(target, tmp_path):
    endings = [outcome(target, content, tmp_path) for content in target.valid]
    assert "read" in endings
    assert set(endings) <= {"read", "refused"}, "pieces of a file may be refused"
    spoilt = [target.spoilt(0, number) for number in range(200)]
    assert spoilt == [target.spoilt(0, number) for number in range(200)]
    assert len(set(spoilt)) > 180
    assert len(set(spoilt) & {target.spoilt(1, number) for number in range(200)}) < 20


def test_hundreds_of_spoilt_files_are_read_or_refused(target, tmp_path):
    """The command does this for as long as one likes."""
    outcomes = [outcome(target, target.spoilt(0, number), tmp_path) for number in range(100)]
    assert set(outcomes) == {"read", "refused"}
    assert outcomes.count("refused") > 50
    assert outcomes.count("read") > 0


def misbehaving(file: Path) -> None:
    """Reads what it is given, refuses, raises, dies or never ends, as the first byte says."""
    match file.read_bytes()[0] % 64:
        case 0:
            os.kill(os.getpid(), signal.SIGKILL)
        case 1:
            time.sleep(60)
        case 2:
            bytearray(2 * fuzz.SPARE_BYTES)  # more than there is left
        case 3:
            raise ValueError("in\ntwo lines")
        case 4:
            raise KeyError("x")
        case number if number % 2:
            raise ValueError("no")


@pytest.mark.slow
def test_what_is_neither_read_nor_refused_is_counted_and_more_is_read(monkeypatch):
    monkeypatch.setattr(fuzz, "HANGS_SECONDS", 2)
    target = replace(TARGETS["checkpoint"](), read=misbehaving, refusal=ValueError)
    monkeypatch.setattr(Target, "spoilt", lambda self, seed, number: bytes([number % 64]))
    tally = fuzz.fuzz(target, minutes=0.15, seed=0, workers=2)
    assert min(tally.read, tally.refused) > 40
    assert {number % 64 for number, _ in tally.signals} == {0}
    assert {text for _, text in tally.signals} == {f"status {-signal.SIGKILL}"}
    assert {number % 64 for number, _ in tally.hung} == {1}
    assert {number % 64 for number, _ in tally.exceptions} == {2, 3, 4}
    texts = sorted({re.sub(r" \(at .*", "", text) for _, text in tally.exceptions})
    assert texts == ["KeyError: 'x'", "MemoryError: ", r"refused in several lines: ValueError('in\ntwo lines')"]
    assert tally.inputs == tally.read + tally.refused + len(tally.findings)


def long_complaint(file: Path) -> None:
    """Raises what nobody expects, at length."""
    raise KeyError("x" * 400)


@pytest.mark.slow
def test_a_reader_that_finds_much_is_not_taken_for_one_that_hangs(monkeypatch):
    """What it has found must not wait, in a pipe of 64 kB, for the end of the reader."""
    monkeypatch.setattr(fuzz, "HANGS_SECONDS", 1)
    tally = fuzz.fuzz(replace(TARGETS["checkpoint"](), read=long_complaint), minutes=0.08, seed=0, workers=1)
    assert tally.hung == []
    assert len(tally.exceptions) == tally.inputs > 300


@pytest.mark.slow
def test_the_command_prints_its_table_and_a_file_of_its_number(command):
    ended = command("-m", "tests.harness.fuzz", "--minutes", "0.05", "--workers", "1", cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")
    head, _, *rows = ended.stdout.splitlines()
    assert len(rows) == len(TARGETS)
    for name, row in zip(TARGETS, rows, strict=True):
        figures = dict(zip(head.split("|")[1:-1], row.split("|")[1:-1], strict=True))
        figures = {key.strip(): value.strip().replace(",", "") for key, value in figures.items()}
        assert figures["target"] == name
        assert int(figures["read"]) + int(figures["refused"]) == int(figures["inputs"]) > 30
        assert [figures[key] for key in ("other exceptions", "signals", "hung")] == ["0"] * 3
    written = subprocess.run(
        [sys.executable, "-m", "tests.harness.fuzz", "--write", "7", "--seed", "3", "checkpoint"],
        cwd=ROOT,
        capture_output=True,
    )
    assert written.stdout == TARGETS["checkpoint"]().spoilt(3, 7)


def test_a_target_that_is_none_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz", "cfar"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 2
    assert "there is no target cfar: checkpoint" in capsys.readouterr().err
