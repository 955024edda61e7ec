"""The record of a run: every figure is listed, and a sink that fails neither stops a run nor loses a figure."""

import pytest

from engine.logging.epoch_metrics import tag
from engine.logging.run_log import RunLog
from engine.logging.sink import Begun
from engine.run.directory import RunDirectory
from tests.support.runs import ROOT

RECORD = {"seconds": 1.0, "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 1.0}


class Notes:
    """A sink that keeps what it is given, and fails in the epochs that it is told."""

    name = "notes"

    def __init__(self, *fails: int):
        self.fails, self.epochs, self.ended = list(fails), [], None

    def begin(self, begun):
        self.epochs = [record["epoch"] for record in begun.records]

    def epoch(self, record):
        if record["epoch"] in self.fails:
            self.fails.remove(record["epoch"])
            raise RuntimeError("the server is away")
        self.epochs.append(record["epoch"])

    def end(self, ended):
        self.ended = ended


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("train_loss", "loss/train"),
        ("clean_train_accuracy", "accuracy/clean train"),
        ("val_top5_accuracy_ema", "accuracy/val top-5 ema"),
        ("train_accuracy_mixed", "accuracy/train mixed"),
        ("gradient_norm", "norm/gradient of the last step"),
        ("seconds", None),
    ],
)
def test_a_figure_has_one_tag(name, shown):
    assert tag(name) == shown


def test_a_figure_that_is_not_listed_is_an_error(tmp_path):
    with (
        pytest.raises(LookupError, match=r"sharpness is no figure of an epoch: it needs an entry in engine/logging"),
        RunLog(Begun(run=RunDirectory(tmp_path), facts={})) as log,
    ):
        log.epoch(RECORD | {"epoch": 1, "sharpness": 3.0}, max_epochs=2)


@pytest.mark.parametrize(("fails", "reports"), [((), 0), ((1,), 1), ((2, 2, 3), 1), ((3, 3), 1), ((1, 2), 2)])
def test_a_sink_that_fails_is_reported_once_and_has_all_epochs_in_the_end(tmp_path, caplog, fails, reports):
    caplog.set_level("INFO")
    sink = Notes(*fails)
    with RunLog(Begun(run=RunDirectory(tmp_path), facts={}), [sink]) as log:
        for epoch in range(1, 4):
            log.epoch(RECORD | {"epoch": epoch}, max_epochs=3)
    assert sink.epochs == [1, 2, 3]
    assert sink.ended.status == "running"
    said = "notes could not be written (RuntimeError: the server is away): training continues"
    assert caplog.text.count(said) == reports


def test_without_a_logger_there_are_the_files_alone(train):
    run = train("logger=[]", "trainer.max_epochs=1")
    assert not run.directory.tensorboard.exists()
    assert run.result["status"] == "finished"
    assert len(run.metrics) == 1


@pytest.mark.slow
def test_what_reads_a_checkpoint_does_not_import_tensorboard(command):
    program = "import engine.build.from_checkpoint, sys; print('tensorboard' in sys.modules)"
    assert command("-c", program, cwd=ROOT).stdout == "False\n"
