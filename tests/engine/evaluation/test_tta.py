"""Test-time augmentation: the views, their weights, and that training and evaluation see alike."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as VF

from engine.build import autotune, from_checkpoint, objects
from engine.evaluation.evaluate import evaluate
from engine.evaluation.tta import mean_logits
from engine.report.every_tta import every_tta
from tests.support.runs import composed, option_names, rebuilt

SIZE = 32


def views(*overrides: str):
    """What an option of the group builds."""
    return objects.instantiate(composed(*overrides).tta)


def network() -> nn.Module:
    """A network that looks at every pixel differently."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 10))


@pytest.mark.parametrize("option", option_names("tta"))
def test_weights_sum_to_one_and_views_have_the_type_of_the_images(option):
    images = torch.randn(4, 3, SIZE, SIZE)
    weights, seen = zip(*views(f"tta={option}")(images), strict=True)
    assert sum(weights) == pytest.approx(1)
    assert {view.dtype for view in seen} == {torch.float32}
    assert all(len(view) == 4 for view in seen)


def test_without_augmentation_the_answer_is_the_networks_own():
    images, model = torch.randn(4, 3, SIZE, SIZE), network()
    assert torch.equal(mean_logits(model, images, views()), model(images))


def test_flip():
    images, model = torch.randn(4, 3, SIZE, SIZE), network()
    expected = (model(images) + model(VF.horizontal_flip(images))) / 2
    torch.testing.assert_close(mean_logits(model, images, views("tta=flip")), expected)


@pytest.mark.parametrize("pixels", [1, 3])
def test_flip_shift_is_half_unshifted_and_a_quarter_each_way(pixels):
    """By torchvision's padding and cropping, with the weights of Jordan's appendix."""
    images, model = torch.randn(4, 3, SIZE, SIZE), network()
    padded = VF.pad(images, pixels, padding_mode="reflect")

    def mirrored(place):
        return (model(place) + model(VF.horizontal_flip(place))) / 2

    shifted = [VF.crop(padded, corner, corner, SIZE, SIZE) for corner in (0, 2 * pixels)]
    expected = mirrored(images) / 2 + sum(map(mirrored, shifted)) / 4
    found = mean_logits(model, images, views("tta=flip_shift", f"tta.pixels={pixels}"))
    torch.testing.assert_close(found, expected)


def test_flip_answers_an_image_and_its_mirror_image_alike():
    images, model, flip = torch.randn(4, 3, SIZE, SIZE), network(), views("tta=flip")
    torch.testing.assert_close(mean_logits(model, images.flip(3), flip), mean_logits(model, images, flip))


def test_figures_are_those_of_the_mean():
    images, labels, model = torch.randn(20, 3, SIZE, SIZE), torch.arange(20) % 10, network()
    precision = autotune.possible_backends(composed("trainer.device=cpu", "trainer.precision=fp32"))[0].precision
    figures = evaluate(model, [(images, labels)], precision=precision, views=views("tta=flip"))
    logits = (model(images) + model(images.flip(3))) / 2
    assert figures.loss == pytest.approx(F.cross_entropy(logits, labels).item())
    assert figures.accuracy == (logits.argmax(1) == labels).float().mean()


def test_the_final_test_and_evaluation_see_the_same_views(train, finished):
    """And the validation after each epoch the images as they are."""
    run = train("tta=flip_shift")
    plain = finished
    assert run.metrics[0]["val_loss"] == plain.metrics[0]["val_loss"]
    assert run.result["test_loss"] != plain.result["test_loss"]
    assert (run.result["tta"], plain.result["tta"]) == ("flip_shift", "none")
    for given, result in ((None, run), (composed("tta=none").tta, plain)):
        found, images = rebuilt(run.checkpoint("best"), tta=given)
        figures = evaluate(found.model, images.test, precision=found.precision, views=found.views)
        assert figures.loss == result.result["test_loss"]
        assert found.tta == result.result["tta"]


@pytest.mark.parametrize("option", option_names("tta"))
def test_views_are_called_as_the_user_chose_them(option):
    assert from_checkpoint.option_name("tta", objects.plain(composed(f"tta={option}").tta)) == option


def test_views_with_other_values_are_called_by_these():
    values = objects.plain(composed("tta=ten_crop", "tta.padding=5").tta)
    assert from_checkpoint.option_name("tta", values) == "crops (padding=5, mirrored=True)"


class Pixels(nn.Module):
    """Answers with what it has seen: the image itself, averaged over places as a pooling head does."""

    def forward(self, images):
        return images.mean((2, 3))


@pytest.mark.parametrize("padding", [2, 4])
def test_crops_are_torchvisions_of_the_padded_image(padding):
    images, model = torch.randn(4, 3, SIZE, SIZE), network()
    padded = VF.pad(images, padding, padding_mode="reflect")
    for option, theirs in (("five_crop", VF.five_crop), ("ten_crop", VF.ten_crop)):
        expected = torch.stack([model(view) for view in theirs(padded, SIZE)]).mean(0)
        found = mean_logits(model, images, views(f"tta={option}", f"tta.padding={padding}"))
        torch.testing.assert_close(found, expected)


def test_scales():
    images = torch.randn(2, 3, SIZE, SIZE)
    seen = list(views("tta=multi_scale", "tta.scales=[1,1.5,2]")(images))
    assert [view.shape[2:] for _, view in seen] == [(size, size) for size in (32, 32, 48, 48, 64, 64)]
    assert torch.equal(seen[0][1], images)
    theirs = VF.resize(images, [48, 48], interpolation=VF.InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(seen[2][1], theirs)
    torch.testing.assert_close(seen[3][1], theirs.flip(3))


def test_dense_is_the_whole_padded_image():
    images = torch.randn(2, 3, SIZE, SIZE)
    (_, first), (_, second) = views("tta=dense", "tta.padding=5")(images)
    torch.testing.assert_close(first, VF.pad(images, 5, padding_mode="reflect"))
    torch.testing.assert_close(second, first.flip(3))


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 48), (32, 40, 144), (64, 32, 144)])
def test_144_crops(height, width, count):
    """As many as in the paper, squares of the shorter side, mirrored in pairs, and a constant image stays constant."""
    seen = list(views("tta=crops_144")(torch.randn(2, 3, height, width)))
    assert len(seen) == count
    assert {tuple(view.shape[2:]) for _, view in seen} == {(32, 32)}
    for (weight, view), (other_weight, mirrored) in zip(seen[::2], seen[1::2], strict=True):
        assert weight == other_weight == pytest.approx(1 / count)
        assert torch.equal(mirrored, view.flip(3))
    constant = torch.full((1, 3, height, width), 0.7)
    torch.testing.assert_close(mean_logits(Pixels(), constant, views("tta=crops_144")), torch.full((1, 3), 0.7))


def test_the_first_corner_at_the_smallest_scale_is_torchvisions():
    images = torch.randn(2, 3, SIZE, SIZE)
    larger = VF.resize(images, [37, 37], interpolation=VF.InterpolationMode.BICUBIC, antialias=True)
    expected = VF.ten_crop(larger, SIZE)[:4]
    found = [view for _, view in views("tta=crops_144")(images)][0:8:2]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_views_are_put_beside_the_image_as_it_is(finished):
    """However fast the others happen to be."""
    found, images = rebuilt(finished.checkpoint())
    part = every_tta(found, images, {name: views(f"tta={name}") for name in ("flip", "none")})
    assert part.content["none"]["difference"] == 0
    assert [row[0] for row in part.sections[0].rows] == ["tta", "none", "flip"]
