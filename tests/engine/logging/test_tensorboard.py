"""What TensorBoard shows beside the curves: texts, pictures, norms, the graph."""

import re

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import hubconf
from data.dataset import Images
from engine.build import autotune, objects
from engine.evaluation.evaluate import Evaluation
from engine.logging import tensorboard
from engine.plotting import tables
from engine.plotting.images import BLUE, MOST_CLASSES, confusion, tiles
from models import __main__ as zoo
from tests.support.runs import SMALL, composed

CLASSES = ["cat", "dog", "a class with a name that is far longer than any picture has room for", "猫"]


def came_to(predicted: list[int], confidence: list[float]) -> Evaluation:
    """A test that came to this."""
    values = torch.tensor(predicted), torch.tensor(confidence)
    return Evaluation(0.0, 0.0, 0.0, len(predicted), predicted=values[0], confidence=values[1])


def squares(picture: np.ndarray, classes: int, cell: int) -> np.ndarray:
    """The colour in the upper left of each square of a confusion matrix, without a number, [K, K, 3]."""
    corner = len(picture) - classes * cell + 1
    return picture[corner::cell, corner::cell]


def test_the_squares_of_a_confusion_matrix_are_as_dark_as_its_shares():
    counts = np.array([[9, 0, 0, 0], [0, 4, 0, 12], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = squares(confusion(counts, CLASSES), 4, 44)
    shares = np.sqrt(counts / np.array([[9], [16], [4], [1]]))
    expected = (1 - shares[..., None]) * 255 + shares[..., None] * np.array(BLUE)
    assert np.abs(found - expected).max() <= 0.5


@pytest.mark.parametrize("classes", [2, 20, 21, 100, MOST_CLASSES])
def test_a_confusion_matrix_of_any_size_fits_a_screen(classes):
    counts = np.eye(classes, dtype=np.int64)
    picture = confusion(counts, [f"class {number}" for number in range(classes)])
    assert picture.shape[0] == picture.shape[1] <= 1150
    found = squares(picture, classes, 44 if classes <= 20 else max(900 // classes, 4))
    assert np.array_equal((found == BLUE).all(2), counts.astype(bool))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_tile_shows_its_image(channels):
    images = np.random.default_rng(0).integers(0, 256, (9, channels, 32, 32)).astype(np.uint8)
    sheet = tiles(images, [("a", "b", "c")] * 9)
    ninth = sheet[-(96 + 3 * 15 + 24) :, 12 : 12 + 96]  # in the second row, at its left
    shown = next(
        ninth[top : top + 96] for top in range(24) if np.array_equal(ninth[top : top + 96 : 3, ::3, 0], images[8, 0])
    )
    assert np.array_equal(shown[::3, ::3].transpose(2, 0, 1), np.broadcast_to(images[8], (3, 32, 32)))


def test_the_most_confident_errors_are_shown_and_nothing_else(monkeypatch):
    seen = []
    monkeypatch.setattr(tensorboard, "tiles", lambda images, lines: seen.append((images, lines)) or np.zeros((9, 9, 3)))
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    test = Images(images, torch.tensor([0, 1, 0, 1, 2]))
    found = list(tensorboard.ending(came_to([0, 0, 1, 1, 3], [0.9, 0.5, 0.8, 0.7, 0.6]), test, CLASSES))
    assert [summary.value[0].tag for summary in found] == ["confusion matrix", "most confident errors"]
    ((shown, lines),) = seen
    assert shown[:, 0, 0, 0].tolist() == [2, 4, 1]
    assert lines == [("cat", "dog", "80 %"), (CLASSES[2], "猫", "60 %"), ("dog", "cat", "50 %")]


def test_without_a_mistake_and_with_very_many_classes_there_is_no_picture():
    test = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 300]))
    assert not list(tensorboard.ending(came_to([0, 300], [0.9, 0.5]), test, [str(number) for number in range(301)]))


@pytest.mark.parametrize("name", ["lenet5", "cbam_resnet20", "googlenet", "densenet100bc", "mobilenet_v3_small"])
def test_the_table_of_a_network_counts_everything_once(name):
    model = objects.network(objects.plain(composed(f"model={name}").model), num_classes=10, in_channels=3)
    titles, *rows = tensorboard.layers(model, torch.Size((3, 32, 32)))
    assert titles[0] == "part"
    counted = [int(row[3].replace(",", "")) for row in rows]
    assert sum(counted) == sum(parameter.numel() for parameter in model.parameters())
    assert "10" in [row[2] for row in rows]
    multiply_adds = sum(int(row[4].replace(",", "")) for row in rows if row[4] != "-")
    assert multiply_adds == next(entry.multiply_adds for entry in zoo.entries() if entry.name == name)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_cells_of_a_table_are_text():
    assert tables.as_markdown([("a", "b"), ("x|y", "")]) == "| a | b |\n| --- | --- |\n| x\\|y |  |"


def test_norms_are_those_of_the_weights_and_of_the_last_gradient(train):
    """Steps along the gradient alone, of which the fifth and the sixth, the last, are kept."""
    plain = ("optimizer=momentum", "optimizer.momentum=0", "scheduler=constant", "regularization=[]")
    run = train(*plain, "trainer.checkpoint_every_steps=5")
    before, after = (run.checkpoint(name)["state"] for name in ("previous", "last"))
    assert (before["step"], after["step"]) == (5, 6)
    ways = [(before["model"][name] - value).flatten() for name, value in after["model"].items()]
    rate = run.metrics[-1]["learning_rate"]
    assert run.metrics[-1]["gradient_norm"] == pytest.approx(torch.cat(ways).norm().item() / rate, rel=1e-3)
    weights = torch.cat([value.flatten() for value in after["model"].values()])
    assert run.metrics[-1]["weight_norm"] == pytest.approx(weights.norm().item(), rel=1e-5)


def test_the_arrangement_names_curves_that_there_are(train):
    run = train("regularization=[ema]")
    events = EventAccumulator(str(run.directory.tensorboard)).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    curves, charts = events.Tags()["scalars"], {chart.title: chart.multiline.tag for chart in layout.category[0].chart}
    shown = {
        title: [tag for tag in curves if any(re.match(one, tag) for one in tags)] for title, tags in charts.items()
    }
    assert shown["accuracy"] == ["accuracy/train", "accuracy/val", "accuracy/val ema"]
    assert shown["top-5 accuracy"] == ["accuracy/val top-5", "accuracy/val top-5 ema"]
    assert set(shown["loss"]) == {"loss/train", "loss/val", "loss/val ema"}
    assert set(shown["norms"]) == {"norm/weights", "norm/gradient of the last step"}


def test_the_graph_is_kept_on_request(train, finished):
    assert not EventAccumulator(str(finished.directory.tensorboard)).Reload().Tags()["graph"]
    events = EventAccumulator(str(train("logger.tensorboard.log_graph=true").directory.tensorboard)).Reload()
    names = [node.name for node in events.Graph().node]
    assert any("head" in name for name in names)


@pytest.mark.slow
def test_the_graph_of_a_network_whose_calls_are_compiled():
    config, network = composed(*SMALL), hubconf.create("lenet5", num_classes=10)
    loaders = objects.loaders(config, objects.splits(config), autotune.possible_backends(config)[0])
    network.compile()
    names = [node.name for node in tensorboard.graph(network, loaders.train).node]
    assert any("head" in name for name in names)
