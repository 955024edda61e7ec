"""What a sweep will take, said before it begins."""

import json

import pytest

from engine.build import sweep_estimate
from engine.build.sweep_estimate import Kind, TrainingCost
from engine.config import identity
from tests.support.runs import ROOT, composed

CPU = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.memory_format=contiguous", "model=lenet5")


def kinds(*jobs: tuple[str, ...]) -> list[Kind]:
    """The kinds of jobs with such settings."""
    return sweep_estimate.kinds([composed(*CPU, *words, hydra=True) for words in jobs])


def test_jobs_that_take_the_same_are_one_kind_under_the_name_that_distinguishes_it():
    found = kinds(
        ("seed=0", "optimizer.lr=0.1"),
        ("seed=1", "optimizer.lr=0.2"),
        ("seed=0", "trainer.batch_size=64", "optimizer.lr=0.1"),
        ("seed=0", "optimizer=adam", "trainer.max_epochs=3"),
    )
    assert [(kind.name, len(kind.jobs)) for kind in found] == [
        ("model=lenet5", 2),
        ("seed=0 trainer.batch_size=64 optimizer.lr=0.1", 1),
        ("seed=0 optimizer=adam trainer.max_epochs=3", 1),
    ]


def test_images_are_those_of_the_data_set_without_reading_it():
    (kind,) = kinds(("dataset=cifar100", "trainer.max_epochs=3", "regularization=[ema]"))
    assert (kind.size, kind.classes, kind.side) == (50_000, 100, 32)
    assert kind.image_passes == pytest.approx(3 * (45_000 + 2 * 5_000 / 3))
    (limited,) = kinds(("dataset.train_limit=640", "dataset.val_size=0", "trainer.max_epochs=2"))
    assert limited.image_passes == 2 * 640


def test_files_of_a_folder_are_counted(tmp_path):
    for name in ("train/cat/1.png", "train/cat/2.JPG", "train/cat/notes.txt", "train/dog/3.png", "test/cat/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (kind,) = kinds(("dataset=folder", f"dataset.root={tmp_path}", "dataset.image_size=40"))
    assert (kind.size, kind.classes, kind.side) == (3, 2, 40)


def test_memory_is_that_of_its_parts(monkeypatch):
    monkeypatch.setattr(sweep_estimate, "LONG_ENOUGH", 0)  # the time does not matter
    sgd, adam, average, parts, twice = (
        sweep_estimate.measured(*kinds(words)).memory
        for words in (
            ("optimizer=sgd",),
            ("optimizer=adam",),
            ("optimizer=sgd", "regularization=[weight_decay,ema]"),
            ("optimizer=sgd", "trainer.gradient_accumulation=2"),
            ("optimizer=sgd", "trainer.batch_size=256"),
        )
    )
    weights = 4 * 62_006  # LeCun et al. 1998 with three channels, in bytes
    batch = twice - sgd
    assert sgd == pytest.approx(3 * weights + batch)  # weights, gradients, momentum
    assert adam - sgd == pytest.approx(weights, rel=0.01)  # a second moment
    assert average - sgd == pytest.approx(weights)
    assert sgd - parts == pytest.approx(batch / 2)
    first_layers = 128 * 4 * (3 * 32 * 32 + 6 * 28 * 28)  # which the backward pass of two convolutions needs
    assert first_layers < batch < 2.5 * first_layers


def test_an_average_is_counted_in_a_sweep_of_such_with_and_without(monkeypatch):
    monkeypatch.setattr(sweep_estimate, "LONG_ENOUGH", 0)
    without, averaged = sweep_estimate.costs(
        kinds(("regularization=[weight_decay]",), ("regularization=[weight_decay,ema]",))
    )
    assert averaged.memory - without.memory == pytest.approx(4 * 62_006)


def test_networks_beyond_the_time_go_by_their_multiply_adds(monkeypatch):
    monkeypatch.setattr(sweep_estimate, "SECONDS", 0)
    one, other, again = sweep_estimate.costs(kinds(("seed=0",), ("model=resnet20",), ("trainer.max_epochs=7",)))
    assert (one.parameters, other.parameters, again) == (62_006, 269_722, one)
    assert one.memory
    assert other.memory is None
    assert other.seconds / one.seconds == pytest.approx(other.multiply_adds / one.multiply_adds)


def test_lines_are_few_and_add_up():
    config = composed("dataset.val_size=0", "trainer.max_epochs=2")
    found = [Kind(f"k{number}", [config] * 3, 50_000, 10, 32) for number in range(sweep_estimate.MOST_LINES + 2)]
    costs = [TrainingCost(269_722, 40_551_808, 1.23e8, 0.0036)] * len(found)
    text = sweep_estimate.lines(found, costs, 100)
    assert text[0] == "66 jobs of 100, the others are finished; estimated on this device:"
    assert text[1] == "  3 x k0: 0.27 M parameters, 40.6 M multiply-adds, 120 MB to train, 6 min each"
    assert text[-2] == "  and 2 more"
    assert text[-1].startswith("in all 6.6 h, one job after the other")
    assert len(text) == sweep_estimate.MOST_LINES + 3


def test_finished_jobs_do_not_count(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_estimate, "measured", lambda kind: TrainingCost(1, 1, 1.0, 1e-3))
    configs = [composed(*CPU, f"seed={seed}", f"hydra.sweep.dir={tmp_path}", hydra=True) for seed in range(3)]
    directory = tmp_path / f"seed=1-{identity.identity(configs[1])}"
    directory.mkdir()
    for status, said in {"running": "3 jobs; estimated", "finished": "2 jobs of 3, the others are finished;"}.items():
        (directory / "result.json").write_text(json.dumps({"status": status}))
        sweep_estimate.announce(configs)
        assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    "words", [("trainer.max_epochs=1", "dataset.train_limit=100", "dataset.val_size=0"), ("sweep_estimate=false",)]
)
def test_a_sweep_that_is_short_or_does_not_want_it_is_not_estimated(words, capsys, monkeypatch):
    monkeypatch.setattr(sweep_estimate, "costs", None)
    sweep_estimate.announce([composed(*CPU, *words, f"seed={seed}", hydra=True) for seed in range(2)])
    assert capsys.readouterr().out == ""


def test_what_cannot_be_estimated_is_left_to_the_job(capsys, tmp_path):
    words = ("dataset=folder", f"dataset.root={tmp_path}")
    sweep_estimate.announce([composed(*CPU, *words, f"seed={seed}", hydra=True) for seed in range(2)])
    said = capsys.readouterr().out
    assert said.startswith(f"no estimate: {tmp_path}/train is not a directory")
    assert said.count("\n") == 1


def test_a_small_sweep_does_not_wait_for_torch(command):
    program = (
        "import sys; from engine.build import sweep_estimate; from engine.config import command; "
        "sys.argv = ['train.py', '-m', 'dataset=shapes', 'dataset.train_size=100', 'trainer.max_epochs=9', 'seed=0,1'];"
        "sweep_estimate.announce(command.command_line('config')); print('torch' in sys.modules)"
    )
    ended = command("-c", program, PYTHONPATH=str(ROOT))
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr
