"""Where a network looks: Grad-CAM, what its attention weighs, its first filters."""

import base64
import io
import json
import zipfile
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from data.dataset import Images
from data.loader import EvalLoader, Normalize
from engine.build.from_checkpoint import EvalData, Trained
from engine.device.amp import Precision
from engine.evaluation.tta import as_it_is
from engine.report import network_result, report
from engine.report.explain import attention, explain, filters, gradcam
from engine.report.explain.examples import first_of_each, shown_classes
from tests.support.marks import slow_except
from tests.support.networks import FAMILIES, make
from tests.support.runs import rebuilt

CPU = torch.device("cpu")


def known(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str] = ("a", "b", "c")
) -> tuple[Trained, EvalData]:
    """A network as if from a checkpoint, and images uint8 [N, C, H, W] to test it on, which it sees from 0 to 1."""
    channels = images.shape[1]
    normalize = Normalize([0.0] * channels, [1.0] * channels, CPU, torch.contiguous_format)
    loaders = (EvalLoader(some, batch_size=4, normalize=normalize) for some in (Images(images, labels),) * 2)
    trained = Trained(
        model, "model", list(classes), images.shape[1:], normalize, Precision("fp32", CPU), as_it_is, "none"
    )
    return trained, EvalData(*loaders)


def noise(count: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    """Images of chance, uint8."""
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def restless(model: nn.Module) -> nn.Module:
    """The network in evaluation mode with statistics and scales of chance, so that no gate is the same everywhere."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def pixels(picture: str) -> np.ndarray:
    """What a picture of the page shows, uint8 [H, W, C]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


# Grad-CAM


class Quadrants(nn.Module):
    """A map for each quarter of a grey image, elsewhere 0; the logit of a class is the sum of its quarter."""

    def __init__(self, size: int):
        super().__init__()
        self.maps = nn.Conv2d(1, 4, 1, bias=False)
        nn.init.ones_(self.maps.weight)
        self.mask = nn.Identity()
        self.quarters = torch.zeros(4, size, size)
        for number in range(4):
            rows, columns = number // 2 * size // 2, number % 2 * size // 2
            self.quarters[number, rows : rows + size // 2, columns : columns + size // 2] = 1

    def forward(self, images):
        return self.mask(self.maps(images) * self.quarters).sum((2, 3))


def test_the_map_lights_up_exactly_where_the_logit_comes_from():
    images, model = torch.rand(4, 1, 8, 8), Quadrants(8)
    maps, layer = gradcam.class_maps(model, images, torch.arange(4))
    torch.testing.assert_close(maps, images[:, 0] * model.quarters)
    assert layer == "into mask"


def test_what_speaks_against_a_class_is_cut_off():
    images, model = -torch.rand(4, 1, 8, 8), Quadrants(8)
    assert (gradcam.class_maps(model, images, torch.arange(4))[0] == 0).all()


def test_grad_cam_by_hand():
    """Behind flattened maps is one layer, whose weights are then the gradients."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    model = restless(nn.Sequential(features, nn.Flatten(), nn.Linear(6 * 7 * 7, 5)))
    images, classes = torch.randn(3, 3, 16, 16), torch.tensor([4, 0, 2])
    with torch.no_grad():
        maps = features(images)
    expected = torch.zeros(3, 7, 7)
    for number, name in enumerate(classes):
        for channel in range(6):
            weight = model[2].weight[name].view(6, 49)[channel].mean()
            expected[number] += weight.item() * maps[number, channel]
    found, layer = gradcam.class_maps(model, images, classes)
    torch.testing.assert_close(found, expected.clamp(min=0))
    assert 0 < (found > 0).double().mean() < 1
    assert layer == "out of 0.3"
    assert all(parameter.grad is None for parameter in model.parameters()), "nothing is left of the backward pass"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_maps_of_a_network_that_has_learned_lie_on_the_object():
    """A patch in one of three colours at a random position, in coloured noise."""
    images, labels = noise(60, size=20) // 2, torch.arange(60) % 3
    corners = torch.randint(0, 15, (60, 2), generator=torch.Generator().manual_seed(0)).tolist()
    inside = torch.zeros(60, 20, 20, dtype=torch.bool)
    for number, (row, column) in enumerate(corners):
        images[number, labels[number], row : row + 5, column : column + 5] = 255
        # Two 3x3 convolutions carry what they see two pixels far.
        inside[number, max(row - 2, 0) : row + 7, max(column - 2, 0) : column + 7] = True
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    )
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images / 255), labels).backward()
        optimizer.step()
    part = gradcam.grad_cam(*known(model, images[:30], labels[:30]))
    assert len(part.content["right"]) == 3 * gradcam.CORRECT, "the network has not learned"
    shares = []
    for looked in part.content["right"]:
        values = torch.tensor(looked["maps"][looked["class"]])
        shares.append((values[inside[looked["image"]]].sum() / values.sum()).item())
    assert min(shares) > 0.75, shares  # on at most a fifth of the image


class Maps(TorchFunctionMode):
    """Keeps the last result, of any function of torch, that is a feature map larger than 1x1."""

    last = None

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **options or {})
        if isinstance(result, torch.Tensor) and result.ndim == 4 and min(result.shape[2:]) > 1:
            self.last = result
        return result


# Networks whose last map is the output of a stage, of a layer after the stages, or of an attention module.
QUICK = {"lenet5", "vgg11", "densenet100bc", "mobilenet_v2", "bam_resnet20", "airbench94"}


@pytest.mark.parametrize("name", slow_except(QUICK, FAMILIES))
def test_the_map_is_the_last_that_is_computed_in_any_network(name):
    """Whatever comes behind it has no positions any more."""
    with torch.device("meta"), torch.no_grad():
        model = make(name, *FAMILIES.get(name, ())).eval()
        with Maps() as maps, gradcam.last_map(model) as last:
            assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert last.values is maps.last
    assert last.values.shape[1] > 3, "that is the image"


def test_the_first_correct_predictions_and_the_most_confident_errors_are_shown():
    model, images, labels = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(3 * 64, 3)), noise(60, 8), None
    with torch.no_grad():
        logits = model(images / 255)
    labels = torch.arange(60) % 3
    trained, unseen = known(model, images, labels)
    part = gradcam.grad_cam(trained, unseen)
    taken = logits.argmax(1)
    for name in range(3):
        expected = torch.nonzero((taken == labels) & (labels == name))[: gradcam.CORRECT, 0].tolist()
        assert [one["image"] for one in part.content["right"] if one["class"] == "abc"[name]] == expected
    sure = logits.softmax(1).amax(1)
    mistakes = part.content["mistakes"]
    assert len(mistakes) == gradcam.ERRORS
    assert [one["probability"] for one in mistakes] == pytest.approx(sure[taken != labels].sort().values.flip(0)[:12])
    for one in mistakes:
        assert (one["class"], one["predicted"]) == ("abc"[labels[one["image"]]], "abc"[taken[one["image"]]])
        assert list(one["maps"]) == [one["predicted"], one["class"]]


@pytest.mark.parametrize(("channels", "size"), [(3, 8), (1, 8), (3, 200)])
def test_the_tiles_show_the_maps_of_evaluation_json(channels, size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model.append(nn.Linear(24, 3))
    images = noise(12, size, channels)
    part = gradcam.grad_cam(*known(model, images, torch.arange(12) % 3))
    shown = [tile for section in part.sections for tile in section.tiles]
    told = [*part.content["right"], *part.content["mistakes"]]
    for tile, looked in zip(shown, told, strict=True):
        picture = pixels(tile.picture).astype(float)
        side = picture.shape[0]
        assert side == {8: 8, 200: 66}[size]
        if size == 8:
            assert (picture[:, :8] == images[looked["image"]].permute(1, 2, 0).numpy()).all()
        for number, values in enumerate(looked["maps"].values(), 1):
            over = picture[:, number * (side + 1) : number * (side + 1) + side]
            corner = (over - 0.4 * picture[:, :side].mean(2, keepdims=True))[0, 0] / 0.6 / 255  # of 2x2 the nearest
            expected = colormaps["viridis"](values[0][0])[:3]
            assert corner == pytest.approx(expected, abs=0.02)


# Attention


def by_class(values: torch.Tensor, labels: torch.Tensor, classes: int) -> np.ndarray:
    """Means of values [N, ...] over the images of each class."""
    return np.stack([values[labels == number].mean(0).numpy() for number in range(classes)])


def recorded(model: nn.Module, images: torch.Tensor, *names: str) -> dict[str, list[torch.Tensor]]:
    """What submodules yield for images, a list of all their calls."""
    calls = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: calls[name].append(output))
        for name in names
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return calls


ATTENTION = {
    "se_resnet20": 9,
    "bam_resnet20": 2,
    "cbam_resnet20": 9,
    "ge_resnet56": 9,
    "sknet26": 4,
    "mobilenet_v3_small": 9,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_gates_are_what_submodules_yield(name):
    """Means by class, over batches of four, against hooks on the layers that the weights come out of."""
    model, labels = restless(make(name, *FAMILIES[name])), torch.arange(10) % 3
    images = noise(10) // (1 + labels[:, None, None, None]).to(torch.uint8)  # so that classes differ
    trained, unseen = known(model, images, labels)
    found = attention.gates_by_class(trained.model, unseen.test, 3)
    assert len(found) == ATTENTION[name]
    x = images / 255
    for gate in (found[0], found[-1]):
        inner = model.get_submodule(gate.name)
        parts = [part for part, _ in inner.named_children()]
        calls = recorded(model, x, *(f"{gate.name}.{part}" for part in parts))
        out = {part: calls[f"{gate.name}.{part}"] for part in parts}
        match name:
            case "se_resnet20":
                weights = out["excitation"][0].sigmoid()
            case "mobilenet_v3_small":
                weights = out["excitation"][0].flatten(1)
            case "cbam_resnet20":
                weights = (out["channel"][0] + out["channel"][1]).sigmoid()
            case "bam_resnet20":
                weights = (out["channel"][0][:, :, None, None] * out["spatial"][0]).sigmoid().mean((2, 3))
            case "ge_resnet56":
                weights = out["excite"][0].sigmoid().flatten(1)
            case "sknet26":
                weights = out["select"][0].view(10, 2, -1).softmax(1).mean(2)
        expected = by_class(weights, labels, 3)
        np.testing.assert_allclose(gate.weights, expected, rtol=1e-4)
        assert gate.side == recorded(model, x, gate.name)[gate.name][0].shape[-1]
        expected = expected[:, -1:] if name == "sknet26" else expected  # two shares of 1 say no more than one
        assert gate.figures["between_classes"] == pytest.approx(expected.std(0).mean(), rel=1e-2, abs=1e-7)
        assert gate.figures["mean"] == pytest.approx(expected.mean(), rel=1e-4)


SPATIAL = {
    "bam_resnet20": ([32, 16], "model.stage_attention.reduction=4"),
    "cbam_resnet20": ([32, 16, 8],),
    "ge_resnet56": ([32, 16, 8], "model.depths=[1,1,1]", "model.block_attention.extent=4"),
}


@pytest.mark.parametrize("name", SPATIAL)
def test_places_are_those_of_the_spatial_branch(name):
    sides, *overrides = SPATIAL[name]
    model, images = restless(make(name, *overrides)), noise(2)
    found = attention.position_maps(model, images / 255)
    assert [values.shape[1] for values in found.values()] == sides
    for module, values in found.items():
        if name == "cbam_resnet20":
            (gate,) = recorded(model, images / 255, f"{module}.spatial").values()
            expected = gate[0][:, 0]
        elif name == "bam_resnet20":
            channel, spatial = recorded(model, images / 255, f"{module}.channel", f"{module}.spatial").values()
            expected = (channel[0][:, :, None, None] * spatial[0]).sigmoid().mean(1)
        else:
            (excited,) = recorded(model, images / 255, f"{module}.excite").values()
            expected = excited[0].sigmoid().mean(1).repeat_interleave(4, 1).repeat_interleave(4, 2)
        np.testing.assert_allclose(values, expected.numpy(), atol=1e-4)


def test_large_maps_of_places_are_averaged():
    model, images = restless(make("cbam_resnet20", "model.depths=[1,1,1]")), noise(1, 64) / 255
    found = attention.position_maps(model, images)
    for (name, values), times in zip(found.items(), (2, 1, 1), strict=True):
        (gate,) = recorded(model, images, f"{name}.spatial").values()
        expected = gate[0][0, 0].unfold(0, times, times).unfold(1, times, times).mean((2, 3))
        np.testing.assert_allclose(values[0], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["se_resnet20", "ge_resnet56"])
def test_what_weighs_all_places_alike_has_no_picture_of_them(name):
    assert attention.position_maps(restless(make(name, *FAMILIES[name])), noise(2) / 255) == {}


def test_a_gate_between_shortcut_and_branch_is_no_attention():
    """PreResNet's ablation has a convolution of that name."""
    trained, unseen = known(make("preresnet20", "model.shortcut=exclusive_gating"), noise(3), torch.arange(3))
    assert not attention.attention_weights(trained, unseen).sections


@pytest.mark.parametrize("name", ["cbam_resnet20", "sknet26"])
def test_pictures_of_attention_show_what_evaluation_json_tells(name, monkeypatch):
    drawn = []
    monkeypatch.setattr(attention, "embedded", lambda figure: drawn.append(figure) or "")
    part = attention.attention_weights(*known(restless(make(name, *FAMILIES[name])), noise(9), torch.arange(9) % 3))
    told, titles = part.content, [section.title for section in part.sections]
    figures = dict(zip([title.split(": ")[-1] for title in titles], drawn, strict=True))
    lines = [line.get_xydata() for line in figures["Attention by depth"].axes[0].lines]
    between = [module["between_classes"] for module in told["modules"]]
    assert np.concatenate(lines)[:, 1] == pytest.approx(between)

    def maps(figure):
        return [axes.images[0].get_array() for axes in figure.axes if axes.images]

    if name == "sknet26":
        share = [[weights[one][1] for weights in told["kernels"].values()] for one in "abc"]
        np.testing.assert_array_equal(maps(figures["kernels by class"])[0], share)
        assert told["kernel_sides"] == [3, 5]
        return
    for shown, weights in zip(maps(figures["channels by class"]), told["channels"].values(), strict=True):
        assert sorted(map(tuple, shown.T)) == sorted(zip(*weights.values(), strict=True))
    _, *rows = np.split(np.array(maps(figures["positions"]), dtype=object), 4)
    assert told["positions"]["images"] == [0, 1, 2]
    for row, values in zip(rows, told["positions"]["maps"].values(), strict=True):
        for shown, value in zip(row, values, strict=True):
            np.testing.assert_array_equal(np.array(shown, dtype=float), value)


# Filters


def test_filters_are_scaled_each_to_its_largest_weight():
    weights = np.zeros((18, 3, 2, 2))
    weights[0, 0, 0, 0], weights[0, 1, 1, 1], weights[17, 2, 0, 1] = 4, -2, -1e-3
    picture = filters.mosaic(weights)
    step = 22 * 2 + filters.GAP
    assert picture.shape == (3, 2 * step, 16 * step)
    assert picture[:, 0, 0].tolist() == [255, 128, 128]
    assert picture[:, 43, 43].tolist() == [128, 64, 128]
    assert picture[:, step, step + 43].tolist() == [128, 128, 1]
    assert (picture[:, step:, 2 * step :] == 255).all(), "there are no more"
    assert (picture[:, step : step + 44, :44] == 128).all(), "a filter of zeros"


def test_the_picture_shows_the_filters_of_the_first_layer():
    model = make("alexnet")
    part = filters.first_filters(known(model, noise(1), torch.zeros(1))[0])
    assert part.content["layer"] == "stages.0.0"
    np.testing.assert_allclose(part.content["weights"], model.stages[0][0].weight.detach().numpy(), atol=5.1e-5)
    (section,) = part.sections
    expected = filters.mosaic(np.array(part.content["weights"])).transpose(1, 2, 0)
    assert (pixels(section.picture) == expected).all()


# The whole


@pytest.mark.parametrize("count", [2, 10, 11, 100])
def test_of_many_classes_ten_are_shown(count):
    labels = np.arange(count * 3) % count
    classes = shown_classes(labels, count)
    assert len(classes) == len(set(classes)) == min(count, 10)
    assert (classes[0], classes[-1]) == (0, count - 1)
    assert first_of_each(labels, classes, 2) == [number for one in classes for number in (one, one + count)]
    assert 0 not in shown_classes(np.where(labels == 0, 1, labels), count)


@pytest.mark.parametrize("name", slow_except(["lenet5", "cbam_resnet20", "sknet26"], FAMILIES))
def test_every_family_is_explained(name):
    parts = explain(*known(make(name, *FAMILIES[name]), noise(2), torch.arange(2), [f"class {n}" for n in range(10)]))
    has_attention = name in ATTENTION
    assert [part.name for part in parts] == ["grad_cam", *(["attention"] if has_attention else []), "filters"]
    for part in parts:
        assert part.lines
        for section in part.sections:
            assert section.note
            assert section.picture or section.tiles
    json.dumps([part.content for part in parts], allow_nan=False)


def test_from_a_run_to_its_report(train):
    run = train("model=se_resnet20", "model.depths=[1,1,1]", "trainer.max_epochs=1", "dataset.test_limit=20")
    trained, images = rebuilt(run.checkpoint())
    file = run.directory.path / "checkpoints" / "last.pt"
    parts = explain(trained, images)
    report.report([network_result.network_result(trained, images, file, "a network")], parts)
    content = json.loads((run.directory.path / "evaluation.json").read_text())
    assert all(content[part.name] == part.content for part in parts)
    page = (run.directory.path / "report.html").read_text()
    assert all(section.title in page for part in parts for section in part.sections)
    assert len(page) < 1_500_000


def test_several_networks_are_refused(command, tmp_path):
    for name in ("a.pt", "b.pt"):
        zipfile.ZipFile(tmp_path / name, "w").close()
    ended = command("evaluate.py", "checkpoint=[a.pt,b.pt]", "explain=true")
    assert ended.returncode == 2
    assert "explain=true: takes one checkpoint" in ended.stderr
