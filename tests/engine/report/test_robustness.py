"""How networks do on corrupted images: figures by hand, networks whose answers are known, the published files."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evaluate
from data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from data.corruptions import published as files
from data.corruptions.moved import rotated, translated
from data.dataset import Images
from data.loader import EvalLoader, Normalize
from engine.build.from_checkpoint import EvalData, Trained
from engine.device.amp import Precision
from engine.evaluation.tta import as_it_is
from engine.plotting.plot import folded
from engine.report.robustness import (
    DEGREES,
    PIXELS,
    NetworkRobustness,
    corruption_errors,
    heat_map,
    mean,
    measure_robustness,
    part,
    robustness,
)
from engine.run.errors import RunError
from tests.support.runs import composed

CPU = torch.device("cpu")
CLASSES = [f"class {number}" for number in range(10)]


class Answer(nn.Module):
    """Says a class for images between 0 and 1 by a rule."""

    def __init__(self, rule: Callable[[Tensor], Tensor]):
        super().__init__()
        self.rule = rule

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 10]."""
        return nn.functional.one_hot(self.rule(images).long(), 10).float()


def always(number: int) -> Trained:
    """A network that says this class of every image."""
    return trained(lambda images: torch.full((len(images),), number))


def trained(rule: Callable[[Tensor], Tensor]) -> Trained:
    """A network with this rule, ready to be used."""
    normalize = Normalize([0.0] * 3, [1.0] * 3, CPU, torch.contiguous_format)
    return Trained(Answer(rule), "model", CLASSES, (3, 32, 32), normalize, Precision("fp32", CPU), as_it_is, "none")


def is_bright(images: Tensor) -> Tensor:
    """Class 1 for images that are bright in the mean, else 0."""
    return images.mean((1, 2, 3)) > 0.5


def unseen(images: Tensor, labels: Tensor) -> EvalData:
    """Test images, and none that were held out."""
    loader = EvalLoader(Images(images, labels), batch_size=7, normalize=always(0).normalize)
    return EvalData(loader, loader)


def pictures(count: int = 20) -> Tensor:
    """Noise, uint8 [N, 3, 32, 32]."""
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def robust(clean: float, accuracies: float | np.ndarray, name: str = "a network") -> NetworkRobustness:
    """A network with these accuracies at all severities and, if it is one number, for all corruptions."""
    values = np.broadcast_to(np.asarray(accuracies, float).reshape(-1, 1), (len(CORRUPTIONS), len(SEVERITIES)))
    return NetworkRobustness(name, 1000, clean, values, [clean] * len(PIXELS), [clean] * len(DEGREES), None)


def test_corruption_errors_by_hand():
    """Errors 0.2, 0.3 and so on over 0.4: the sums of the severities, not the mean of their ratios."""
    baseline, other = robust(0.9, 0.6), robust(0.95, 0.8)
    assert corruption_errors(other, baseline) == pytest.approx([0.5] * 15)
    assert corruption_errors(other, baseline, relative=True) == pytest.approx([0.15 / 0.3] * 15)
    assert corruption_errors(baseline, baseline) == [1] * 15
    assert other.mean_error == pytest.approx(0.2)
    assert other.mean_increase == pytest.approx(0.15)

    ours, theirs = np.ones((15, 5)), np.ones((15, 5))
    ours[0], theirs[0] = [1, 0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.6, 0.4, 0.3]
    theirs[1] = 0.5
    first, second = (NetworkRobustness("", 10, 1.0, values, [], [], None) for values in (theirs, ours))
    found = corruption_errors(second, first)
    assert found[:2] == pytest.approx([(0 + 0.1 + 0.2 + 0.3 + 0.4) / (0.1 + 0.2 + 0.4 + 0.6 + 0.7), 0])
    assert found[2:] == [None] * 13, "the baseline makes no errors"
    assert second.mean_error == pytest.approx(1 / 75)


def test_the_mean_of_what_cannot_be_had():
    assert mean([1.0, 2.0, 4.5]) == 2.5
    assert mean([1.0, None]) is None
    assert corruption_errors(robust(0.5, 0.6), robust(0.5, 0.6), relative=True) == [None] * 15


def test_networks_that_are_always_right_and_always_wrong():
    images = unseen(pictures(), torch.full((20,), 3))
    found = robustness({"right": always(3), "wrong": always(4)}, images, root=None, limit=None)
    for name, accuracy in (("right", 1.0), ("wrong", 0.0)):
        figures = found.content["networks"][name]
        values = [
            figures["accuracy"],
            *figures["translation_accuracy"].values(),
            *figures["rotation_accuracy"].values(),
        ]
        values += [value for row in figures["accuracy_by_severity"].values() for value in row]
        assert values == [accuracy] * (1 + 17 + 13 + 75)
        assert figures["mean_corruption_error"] == 1 - accuracy
        assert figures["mean_increase"] == 0
        assert figures["mce"] is None, "the baseline makes no errors"
    assert found.content["baseline"] == "right"
    json.dumps(found.content, allow_nan=False)
    text = "\n".join(found.lines)
    assert all(name in text for name in ("wrong", "mCE", "jpeg_compression", "frost is synthetic"))
    assert [bool(section.picture) for section in found.sections] == [False, True, True, True]


def test_each_figure_is_that_of_its_own_images():
    """Against an evaluation by hand."""
    test = Images((pictures(40).float() * torch.linspace(0.6, 1, 40)[:, None, None, None]).to(torch.uint8), None)
    labels = is_bright(test.images / 255.0).long()
    whole = Images(test.images, labels)
    few = torch.arange(0, 40, 2)

    def source(name: str, severity: int, chosen: Tensor) -> Tensor:
        return corrupted(whole.images[chosen], name, severity)

    again = Images(pictures(10), torch.zeros(10, dtype=torch.int64))
    (found,) = measure_robustness({"it": trained(is_bright)}, whole, few, source, again, 7)

    def by_hand(images: Tensor) -> float:
        return float((is_bright(images / 255.0) == labels[few]).float().mean())

    assert found.clean == 1
    for number, name in enumerate(CORRUPTIONS):
        expected = [by_hand(source(name, severity, few)) for severity in SEVERITIES]
        assert found.corrupted[number].tolist() == pytest.approx(expected), name
    assert found.translated == pytest.approx([by_hand(translated(whole.images[few], pixels)) for pixels in PIXELS])
    assert found.rotated == pytest.approx([by_hand(rotated(whole.images[few], degrees)) for degrees in DEGREES])
    assert found.corrupted.min() < 0.8, "some of it matters to this network"
    assert found.cifar10_1 == (pytest.approx(float((~is_bright(again.images / 255.0)).float().mean())), 10)


def test_one_network_has_no_baseline():
    sheet = {name: torch.zeros(4, 4, 1, 32, 32, dtype=torch.uint8) for name in CORRUPTIONS}
    found = part([robust(0.9, 0.6)], None, sheet)
    figures = found.content["networks"]["a network"]
    assert figures["mean_corruption_error"] == pytest.approx(0.4)
    assert figures["mean_increase"] == pytest.approx(0.3)
    assert "mce" not in figures
    assert found.content["baseline"] is None
    assert any("40.00 %" in line and "+30.00" in line for line in found.lines)
    assert any(line.startswith("gaussian_noise") and line.count("60.00 %") == 6 for line in found.lines)


def test_a_panel_has_the_name_of_its_network_where_there_are_several():
    names = ["a network", "2026-01-31/12-00-00-ab12/checkpoints/best.pt"]
    several = [robust(0.9, 0.6, name) for name in names]
    titles = [[axes.get_title() for axes in heat_map(networks).axes] for networks in (several[:1], several)]
    assert titles == [[""], ["a network", "2026-01-31/12-00-00-ab12/\ncheckpoints/best.pt"]]


@pytest.mark.parametrize("name", ["", "word", "a/b", "x" * 20, "one/two three_four", "/" * 9])
def test_a_folded_name_is_whole_and_narrow(name):
    lines = folded(name, 8).split("\n")
    assert "".join(lines) == name
    assert max(map(len, lines)) <= 8
    assert all(line[-1] in "/ _" for line in lines[:-1] if len(line) < 8), "a word is only cut if it is too long"


@pytest.fixture
def without_pictures(monkeypatch):
    """`robustness` returns what was found, and draws nothing."""
    monkeypatch.setattr(import_module("engine.report.robustness"), "part", lambda found, root, sheet: found)


def test_a_limit_is_spread_over_the_classes(without_pictures):
    """Whoever knows one class of ten is right about one image of ten, though the labels are in order."""
    images = unseen(pictures(200), torch.arange(10).repeat_interleave(20))
    (found,) = robustness({"it": always(6)}, images, root=None, limit=10)
    assert (found.images, found.clean) == (10, pytest.approx(0.1))


# The published files, of which each would have 154 MB: here of 20 test images.


@pytest.fixture
def small_files(tmp_path, monkeypatch) -> Callable[..., EvalData]:
    """Writes the files, and tells the test images that they are of."""
    monkeypatch.setattr(files, "TEST_IMAGES", 20)
    labels = (torch.arange(20) % 4 == 0).long()

    def write(**others: np.ndarray) -> EvalData:
        rng = np.random.default_rng(0)
        for name in CORRUPTIONS:
            np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8))
        np.save(tmp_path / "labels.npy", np.tile(labels.numpy(), 5).astype(np.uint8))
        for name, array in others.items():
            np.save(tmp_path / f"{name}.npy", array)
        return unseen(pictures(), labels)

    return write


def test_published_images_are_read_where_their_severity_lies(small_files, tmp_path):
    images = small_files()
    found = files.published(str(tmp_path), list(CORRUPTIONS), images.test.images)
    for name in ("fog", "snow"):
        raw, chosen = np.load(tmp_path / f"{name}.npy"), torch.tensor([0, 3, 19])
        for severity in SEVERITIES:
            read = found.corrupted(name, severity, chosen)
            assert read.dtype == torch.uint8
            for image, place in zip(read, chosen, strict=True):
                assert (image.permute(1, 2, 0).numpy() == raw[20 * (severity - 1) + int(place)]).all()


@pytest.mark.slow
def test_published_files_take_the_place_of_what_is_computed(small_files, tmp_path):
    """Fog is bright at severities 4 and 5, where whoever answers by brightness is right about a quarter."""
    fog = np.zeros((100, 32, 32, 3), np.uint8)
    fog[60:] = 255
    images = small_files(
        fog=fog,
        **{"cifar10.1_v6_data": np.full((30, 32, 32, 3), 255, np.uint8)},
        **{"cifar10.1_v6_labels": np.arange(30, dtype=np.int32) % 3},
    )
    found = robustness({"it": trained(is_bright), "zero": always(0)}, images, root=str(tmp_path), limit=None)
    figures = found.content["networks"]
    assert figures["it"]["accuracy_by_severity"]["fog"] == [0.75, 0.75, 0.75, 0.25, 0.25]
    assert figures["zero"]["accuracy_by_severity"]["fog"] == [0.75] * 5
    assert figures["zero"]["corruption_errors"]["fog"] == pytest.approx(1.25 / (0.75 + 1.5))
    anew = figures["it"]["cifar10_1"]
    assert (anew["images"], anew["accuracy"]) == (30, pytest.approx(1 / 3))
    assert anew["accuracy_interval"][0] < 1 / 3 < anew["accuracy_interval"][1]
    assert found.content["corruptions"] == str(tmp_path)
    assert any("CIFAR-10.1" in line for line in found.lines)


def array(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Zeros."""
    return np.zeros(shape, dtype)


MISTAKES = {
    "labels are too few": ({"labels": array(99)}, r"labels.npy has the shape \[99\] in place of \[100\]"),
    "labels of other images": ({"labels": array(100)}, "labels.npy has other labels than the network's test images"),
    "labels are fractions": ({"labels": array(100, dtype=float)}, "labels.npy holds float64, not integers"),
    "images are fractions": ({"fog": array(100, 32, 32, 3, dtype=np.float32)}, "fog.npy holds float32 in place of"),
    "too few images": (
        {"snow": array(80, 32, 32, 3)},
        r"snow.npy has the shape \[80, 32, 32, 3\] in place of \[100, 32",
    ),
    "channels first": ({"snow": array(100, 3, 32, 32)}, r"snow.npy has the shape \[100, 3, 32, 32\] in place of"),
    "10.1 without labels": ({"cifar10.1_v6_data": array(9, 32, 32, 3)}, "cifar10.1_v6_labels.npy is missing"),
    "10.1 without images": ({"cifar10.1_v6_labels": array(9)}, "cifar10.1_v6_data.npy is missing"),
    "10.1 has 11 classes": (
        {"cifar10.1_v6_data": array(9, 32, 32, 3), "cifar10.1_v6_labels": array(9) + np.uint8(10)},
        "cifar10.1_v6_labels.npy does not hold labels from 0 to 9",
    ),
    "10.1 is of another size": ({"cifar10.1_v6_data": array(9, 28, 28)}, r"the shape \[9, 28, 28\] in place of \[N,"),
}


@pytest.mark.parametrize(("others", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_wrong_files_are_refused(others, message, small_files, tmp_path):
    images = small_files(**others)
    with pytest.raises(RunError, match=message) as caught:
        robustness({"it": always(0)}, images, root=str(tmp_path), limit=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut off", "pickle", "archive", "directory"])
def test_what_is_no_file_of_numpys_is_refused(kind, small_files, tmp_path):
    images, file = small_files(), tmp_path / "contrast.npy"
    whole = file.read_bytes()
    file.unlink()
    contents = {"empty": b"", "text": b"text", "cut off": whole[:1000], "pickle": pickle.dumps({"a": 1})}
    if kind in contents:
        file.write_bytes(contents[kind])
    elif kind == "archive":
        with file.open("wb") as stream:
            np.savez(stream, array(3))
    elif kind == "directory":
        file.mkdir()
    with pytest.raises(RunError, match=r"contrast.npy (is missing|is not|is an archive|cannot be read)") as caught:
        robustness({"it": always(0)}, images, root=str(tmp_path), limit=None)
    assert "\n" not in str(caught.value)


def test_files_of_other_test_images_are_refused(small_files, tmp_path):
    small_files()
    others = unseen(pictures(30), torch.zeros(30, dtype=torch.int64))
    said = r"for test images \[20, 3, 32, 32\], those of the network are \[30, 3, 32, 32\]"
    with pytest.raises(RunError, match=said):
        robustness({"it": always(0)}, others, root=str(tmp_path), limit=None)


def test_a_network_of_other_classes_is_not_asked_about_cifar10_1(small_files, tmp_path, without_pictures):
    images = small_files(**{"cifar10.1_v6_data": array(9, 28, 28)})
    (found,) = robustness({"it": replace(always(0), classes=CLASSES[:2])}, images, root=str(tmp_path), limit=None)
    assert found.cifar10_1 is None


@pytest.mark.slow
def test_two_checkpoints_on_corrupted_images(finished, caplog):
    """From checkpoints to the files."""
    caplog.set_level("INFO")
    run = finished.directory.path
    shutil.copy(finished.directory.best, run / "checkpoints" / "same.pt")
    both = ",".join(str(run / "checkpoints" / f"{name}.pt") for name in ("best", "same"))
    config = composed(
        f"checkpoint=[{both}]", "robustness=true", "robustness_limit=20", "device=cpu", config_name="evaluate"
    )
    evaluate.main(config)
    content = json.loads((run / "evaluation.json").read_text())
    assert content["robustness"]["images"] == 20
    first, second = content["robustness"]["networks"].values()
    assert first["mce"] == second["mce"] == 1, "they have the same weights"
    assert len(second["accuracy_by_severity"]) == 15
    assert list(content["robustness"]["networks"]) == list(content["networks"])[:2]
    assert "mean corruption error" in caplog.text
    assert "Examples of the corruptions" in (run / "report.html").read_text()
