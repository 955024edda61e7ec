"""The benchmarks run and print their tables; what the figures are is no test's business."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from bench.on_paper import Links, Network, network
from bench.sides import Elsewhere
from bench.speedrun import in_the_same_time
from bench.tensorboard import timed
from tests.support.runs import ROOT


class Writer:
    """Two methods, of which one calls the other."""

    def page(self) -> str:
        time.sleep(0.01)
        return self.line() + self.line()

    def line(self) -> str:
        time.sleep(0.02)
        return "line"


def test_time_within_a_call_within_a_call_is_counted_once():
    with timed([(Writer, "page"), (Writer, "line")]) as seconds:
        assert Writer().page() == "lineline"
        begun = time.perf_counter()
        assert Writer().line() == "line"
        last = time.perf_counter() - begun
    Writer().page()
    assert len(seconds) == 2
    assert seconds[0] >= 0.05
    assert 0.02 <= seconds[1] <= last


ONE_WAY = ("trainer.precision=fp32", "trainer.memory_format=contiguous", "optimizer=adamw")


@contextmanager
def side_of(*epochs: str | int) -> Iterator[Callable[[], int]]:
    """A side with these epochs: so many images, one that takes long, or one that fails."""
    left = list(epochs)

    def epoch() -> int:
        images = left.pop(0)
        if images == "fails":
            raise EOFError("no more")
        if images == "takes long":
            time.sleep(600)
        return images

    yield epoch


@pytest.mark.slow
def test_a_side_elsewhere_that_fails_ends_all_of_its_processes_and_is_heard(capfd):
    """Whichever it is, also while the others are still at work."""

    def two_epochs(side: Elsewhere) -> None:
        with side:
            assert side() == 7
            side()

    side = Elsewhere(side_of, (7, "takes long"), (7, "fails"))
    with pytest.raises(SystemExit):
        two_epochs(side)
    assert [process.is_alive() for process in side.processes] == [False, False]
    assert "EOFError: no more" in capfd.readouterr().err


@pytest.mark.slow
def test_a_side_elsewhere_ends_with_its_context():
    with Elsewhere(side_of, (7, 7)) as side:
        assert [side(), side()] == [7, 7]
    assert [process.exitcode for process in side.processes] == [0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (("bench.augment", "--rounds", "1", "--images", "256", "--workers", "1", "crop, flip"), 1),
        (("bench.standard", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.bare", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.bare", "--rounds", "1", "--seconds", "0.05", "lenet5", *ONE_WAY), 1),
        (("bench.ranks", "--rounds", "1", "--seconds", "0.05", "lenet5"), 1),
        (("bench.roofline", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.start", "--rounds", "1", "--images", "200", "lenet5"), 2),
        (("bench.evaluation", "--rounds", "1", "--images", "100", "--workers", "1", "lenet5"), 1),
        (("bench.tensorboard", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.memory", "--rounds", "1", "--seconds", "0.05", "--workers", "1", "lenet5"), 1),
        (("bench.depthwise", "--rounds", "1", "--workers", "1", "--batch-size", "2"), 5),
    ],
    ids=[
        *("augment", "standard", "bare", "bare of one way", "ranks", "roofline", "start", "evaluation", "tensorboard"),
        *("memory", "depthwise"),
    ],
)
def test_a_benchmark_prints_its_table(command, arguments, rows):
    ended = command("-m", *arguments, cwd=ROOT, CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 0, ended.stderr
    table = re.findall(r"^\|.*\|$", ended.stdout, re.MULTILINE)
    assert len(table) == 2 + rows
    assert len({row.count("|") for row in table}) == 1
    for row in table[2:]:
        figures = [float(figure.replace(",", "")) for figure in re.findall(r"\| ([\d.,]+) (?=\|)", row)]
        if arguments[0] == "bench.memory":
            del figures[3:5]  # page faults, of which there may be none
        assert min(figures) > 0
        assert not re.search(r"\b(nan|inf)\b|\| -\d", row)


@pytest.mark.slow
def test_the_speedrun_prints_its_table(command, tmp_path):
    """Without the record, which needs a GPU and is not part of this project."""
    rng = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
                tmp_path / place / f"{number}.png"
            )
    ended = command("-m", "bench.speedrun", "--root", tmp_path, "--runs", "2", "--epochs", "1", "2", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "40 images" in ended.stdout
    for epochs in (1, 2):
        row = rf"^\| speedrun, {epochs} epochs \| 2 \| [\d.]+ \+- [\d.]+ \| [\d.]+ \|$"
        assert re.search(row, ended.stdout, re.MULTILINE)


def test_what_the_speedrun_comes_to_in_the_records_time_lies_between_two_of_its_lengths():
    runs = [(0.90, 4.0), (0.80, 2.0)]
    assert in_the_same_time(runs, 3.5) == "in 3.50 s the recipe comes to 87.50 %"
    assert in_the_same_time(runs, 4.5) == "no two of these lengths have 4.50 s between them: see --epochs"


def test_on_paper_a_step_is_no_shorter_than_its_computation_its_operators_and_its_messages():
    links = Links(a_machine=8, within=1e9, between=1e8, hop_within=1e-6, hop_between=1e-5)
    assert links.all_reduce(2, 1e9) == pytest.approx(2 * 1e-6 + 1)  # each sends half and receives half, twice
    assert links.all_reduce(8, 0) == pytest.approx(2 * 3e-6)
    assert links.all_reduce(32, 1e8) == pytest.approx(2 * (3e-6 + 2e-5) + 2 * 31 / 32)
    one = Network("one", gradient=4_000_000, norms=10, operators=100, seconds_an_image=1e-3)
    assert one.step(links, 1, 50, start=1e-6) == (pytest.approx(0.05), 0)
    assert one.step(links, 1, 50, start=1e-2) == (pytest.approx(1), 0)
    norms = 3 * 10 * 2 * 3e-6
    assert one.step(links, 8, 400, start=0) == (pytest.approx(0.05 + norms), pytest.approx(norms))  # the rest is hidden
    exposed = links.all_reduce(8, 4_000_000) - 2 / 3 * 1e-3
    assert one.step(links, 8, 8, start=0)[1] == pytest.approx(exposed + norms)


def test_on_paper_a_network_is_counted():
    found = network("resnet20=2000", reached=1)
    assert (found.gradient, found.norms, found.seconds_an_image) == (4 * 269_722, 19, 0.0005)
    # A convolution, a batch norm and backward one operator for each of both; sums, activations, the head.
    assert 4 * 19 < found.operators < 15 * 19
    assert network("lenet5", reached=3 * 651_720).seconds_an_image == 1
