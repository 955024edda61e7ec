"""Averages of the weights, beside torch's own, and how a run makes use of them."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.swa_utils import AveragedModel

import evaluate as evaluate_program
from engine.build import autotune, from_checkpoint, objects
from engine.device.amp import choose_precision
from engine.evaluation.evaluate import evaluate
from engine.training.averages.ema import EMA
from engine.training.averages.swa import SWA
from engine.training.checkpoint_file import result_weights
from tests.support.runs import SMALL, composed, rebuilt

FP32 = choose_precision("fp32", torch.device("cpu"))


def network() -> nn.Module:
    """A small network with statistics."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 5))


def wander(model: nn.Module, steps: int):
    """Other weights and statistics after each step; yields the step's number from 1."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for value in model.state_dict().values():
                value += torch.rand(value.shape, generator=generator) if value.is_floating_point() else 1
        yield step


def test_ema_equals_torchs_average():
    """torch's, with the decay that grows to its value in the first steps, batch norm's statistics included."""

    @torch.no_grad()
    def average(averaged, current, count):
        decay = min(0.5, (1 + int(count)) / (10 + int(count)))
        for mine, theirs in zip(averaged, current, strict=True):
            mine.copy_(decay * mine + (1 - decay) * theirs if mine.is_floating_point() else theirs)

    model = network()
    ours, theirs = EMA(model, max_epochs=3, decay=0.5), AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    theirs.n_averaged += 1  # torch's first step copies; ours begins with the initial weights
    for step in wander(model, 30):
        ours.update(model, epoch=step / 10)
        theirs.n_averaged.fill_(step - 1 or 0)
        if step == 1:  # torch copies where its count is 0: work that step out here
            average(list(theirs.module.state_dict().values()), list(model.state_dict().values()), torch.tensor(0))
            theirs.n_averaged.fill_(1)
            continue
        theirs.update_parameters(model)
    for mine, reference in zip(ours.network.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, reference)


def test_ema_of_constant_weights_is_those_weights():
    model = network()
    ema = EMA(model, max_epochs=3, decay=0.99)
    for step in range(5):
        ema.update(model, epoch=step)
    for mine, value in zip(ema.network.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, value)


@pytest.mark.parametrize(("start", "ends"), [(2, [2, 3, 4]), (0.75, [3, 4]), (4, [4])])
def test_swa_is_the_mean_at_the_ends_of_the_last_epochs(start, ends):
    model = network()
    swa, kept = SWA(model, max_epochs=4, start=start), []
    for step in wander(model, 40):
        swa.update(model, epoch=step / 10)
        if step / 10 in ends:
            kept.append([parameter.detach().clone() for parameter in model.parameters()])
        assert (swa.network is not None) == bool(kept)
    for parameter, *values in zip(swa.network.parameters(), *kept, strict=True):
        torch.testing.assert_close(parameter, torch.stack(values).mean(0))


def test_swa_measures_its_own_statistics():
    """Mean and variance of what the first convolution yields, over all images of the epoch."""
    model = network()
    swa = SWA(model, max_epochs=2, start=1)
    swa.update(model, epoch=1.0)
    images = torch.randn(40, 3, 4, 4) + 3
    swa.prepare([(part, None) for part in images.split(10)], FP32)
    norm, maps = swa.network[1], swa.network[0](images)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 4
    before = norm.running_mean.clone()
    swa.prepare([(images * 9, None)], FP32)  # nothing new has been averaged
    assert torch.equal(norm.running_mean, before)


def test_swa_of_a_run_has_statistics_of_its_own(train):
    """Measured on the three batches of the last epoch, not those that the network has gathered."""
    run = train("model=resnet20", "model.depths=[1,1,1]", "regularization=[swa]", "regularization.swa.start=1")
    state = run.checkpoint()["state"]
    own, average = state["model"], state["averages"]["swa"]["model"]
    means = [name for name in own if name.endswith("running_mean")]
    assert len(means) == 7
    for name in means:
        assert not torch.equal(own[name], average[name])
        assert average[name.replace("running_mean", "num_batches_tracked")] == 3


def test_swa_must_begin_within_the_run():
    with pytest.raises(ValueError, match="start=5 is after the last epoch, 4"):
        SWA(network(), max_epochs=4, start=5)


LONG = ("trainer.max_epochs=3", "optimizer.lr=0.02", "regularization.ema.decay=0.5", "regularization.swa.start=2")


def test_averages_are_evaluated_beside_the_weights(train):
    run = train("regularization=[ema,swa]", *LONG)
    names = [{name for name in record if name.startswith("val_accuracy")} for record in run.metrics]
    assert names[0] == {"val_accuracy", "val_accuracy_ema"}
    assert names[1] == names[2] == {"val_accuracy", "val_accuracy_ema", "val_accuracy_swa"}
    result = run.result
    assert {"test_accuracy_last", "test_accuracy_last_ema", "test_accuracy_last_swa"} <= result.keys()
    best = max(
        (record[name], -record["epoch"]) for record in run.metrics for name in record if name.startswith("val_accuracy")
    )
    assert result["chosen_epoch"] == -best[1]
    assert all(
        result[name] == run.metrics[result["chosen_epoch"] - 1][name] for name in names[result["chosen_epoch"] - 1]
    )
    suffix = "" if result["chosen_weights"] == "model" else f"_{result['chosen_weights']}"
    assert run.metrics[result["chosen_epoch"] - 1][f"val_accuracy{suffix}"] == best[0]


def test_tensorboard_shows_the_figures_of_the_chosen_weights(train):
    run = train("regularization=[ema]", "model=resnet20", "model.depths=[1,1,1]", *LONG[:3])
    events = EventAccumulator(str(run.directory.tensorboard)).Reload()
    result = run.result
    name = "val_loss" if result["chosen_weights"] == "model" else f"val_loss_{result['chosen_weights']}"
    assert events.Scalars("final/val_loss")[-1].value == pytest.approx(result[name])
    assert result["val_loss"] != pytest.approx(result["val_loss_ema"])


@pytest.mark.parametrize("order", ["ema,swa", "swa,ema"])
def test_without_validation_the_order_of_the_averages_does_not_matter(train, order):
    run = train(f"regularization=[{order}]", "dataset.val_size=0", *LONG)
    assert run.result["chosen_weights"] == "swa"


def test_evaluate_finds_the_weights_that_count(train, capsys):
    """By default those that the run chose, by name any that the checkpoint has."""
    run = train("model=resnet20", "model.depths=[1,1,1]", "regularization=[ema]", "dataset.val_size=0", *LONG[:3])
    assert run.result["chosen_weights"] == rebuilt(run.checkpoint())[0].weights == "ema"
    assert run.result["test_accuracy"] == run.result["test_accuracy_last_ema"]
    words = (f"checkpoint={run.directory.path}", "device=cpu")
    for weights, counts in [((), True), (("weights=model",), False)]:
        evaluate_program.main(composed(*words, *weights, config_name="evaluate"))
        figures = json.loads((run.directory.path / "evaluation.json").read_text())
        assert (figures["loss"] == pytest.approx(run.result["test_loss"], rel=1e-6)) == counts
    with pytest.raises(SystemExit) as ended:
        evaluate_program.main(composed(*words, "weights=swa", config_name="evaluate"))
    assert ended.value.code == 2
    assert "weights=swa: the checkpoint has model and ema" in capsys.readouterr().err


def test_the_best_weights_are_those_of_the_best_epoch():
    """In a checkpoint of another epoch the network's own count."""
    state = {"best_epoch": 3, "best_weights": "ema", "model": {}, "averages": {"ema": {"model": {}}}}
    assert result_weights(state, epoch=3.0) == "ema"
    assert result_weights(state, epoch=4.0) == "model"


def test_the_accuracy_on_mixed_images_has_a_name_of_its_own(train):
    run = train("regularization=[mixup]", "trainer.clean_train_accuracy=true", "trainer.max_epochs=1")
    (record,) = run.metrics
    assert "train_accuracy" not in record
    assert "train_accuracy_mixed" in record
    checkpoint = run.checkpoint()
    found, config = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu"), composed(*SMALL)
    (backend,), splits = autotune.possible_backends(config), objects.splits(config, keep=False)
    clean = objects.loaders(composed(*SMALL, "trainer.clean_train_accuracy=true"), splits, backend).eval_loaders
    assert torch.equal(clean["clean_train"].images.images, splits.train.images), "as they are, and not augmented"
    figures = evaluate(found.model, clean["clean_train"], precision=found.precision)
    assert record["clean_train_accuracy"] == figures.accuracy
    assert record["clean_train_loss"] == pytest.approx(figures.loss, rel=1e-6)
