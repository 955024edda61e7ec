"""The networks beside independent implementations: with the same weights they compute the same logits.

The references come from torchvision, timm and pytorchcv and are brought into the CIFAR form here: a
3x3 stem, no pooling behind it, strides of 1 where the zoo has them. Weights and running statistics
are random; both sides compute in float64, so that what is compared is the function and not the
order of its roundings.
"""

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from engine.build import objects
from tests.support.marks import slow_except
from tests.support.networks import randomize
from tests.support.runs import composed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LEAVES = (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear)


def ours(name: str, *overrides: str) -> nn.Module:
    """A network of the zoo."""
    config = composed(f"model={name}", *overrides)
    return objects.network(objects.plain(config.model), num_classes=10, in_channels=3)


# Pairing the modules that hold weights


def by_registration(model: nn.Module, images: torch.Tensor) -> list[nn.Module]:
    """In the order in which the constructor made them."""
    return [module for module in model.modules() if isinstance(module, LEAVES)]


def by_execution(model: nn.Module, images: torch.Tensor) -> list[nn.Module]:
    """In the order in which a forward pass uses them."""
    seen: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: seen.append(module))
        for module in by_registration(model, images)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


def shortcuts_last(model: nn.Module, images: torch.Tensor) -> list[nn.Module]:
    """In the order of registration, but the shortcut of each unit behind the rest of it, as in the zoo."""
    names = [name for name, module in model.named_modules() if isinstance(module, LEAVES)]
    unit = {name: re.sub(r"(unit\d+).*", r"\1", name) for name in names}
    first = {place: index for index, place in reversed(list(enumerate(unit.values())))}
    names.sort(key=lambda name: (first[unit[name]], "identity_conv" in name))
    return [model.get_submodule(name) for name in names]


@torch.no_grad()
def assert_same_function(mine: nn.Module, theirs: nn.Module, pair: Callable = by_registration, mine_pair=None) -> None:
    """Copy the weights and compare the logits, to 1e-5 of the largest."""
    torch.manual_seed(0)
    mine, theirs = mine.double().eval(), theirs.double().eval()
    randomize(theirs)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for module, other in zip((mine_pair or pair)(mine, images), pair(theirs, images), strict=True):
        assert getattr(module, "eps", None) == getattr(other, "eps", None)
        state = other.state_dict()
        assert module.state_dict().keys() == state.keys()
        for key, tensor in module.state_dict().items():
            assert tensor.squeeze().shape == state[key].squeeze().shape, f"{module} and {other}"
            tensor.copy_(state[key].view_as(tensor))  # a 1x1 convolution may stand for a fully connected layer
    expected, found = theirs(images), mine(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max(), "the same is said of every image"
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def references() -> ModuleType:
    """The implementations to compare with, whose packages take seconds to import."""
    from tests.support import references

    return references


# fmt: off
COMPARED = [
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext29_32x4d",
    "densenet100bc", "densenet190bc", "densenet121", "densenet161", "densenet169", "densenet201", "preresnet164",
    "preresnet1001", "wrn28_10", "se_resnet18", "se_resnet34", "se_resnet50", "bam_resnet18", "bam_resnet34",
    "bam_resnet50", "sknet50_timm", "sknet50", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large",
    "mobilenet_v3_small", "googlenet", "inception_v2", "inception_v3", "inception_v4", "inception_resnet_v1",
    "inception_resnet_v2", "vgg11", "vgg13", "vgg16", "vgg19", "alexnet",
]
# fmt: on
# One variant of each family is fast; se_resnet20, cbam_resnet18 and preresnet20 are below.
FAST = {"resnet18", "resnext29_32x4d", "densenet100bc", "mobilenet_v2", "mobilenet_v3_small", "googlenet", "vgg11"}


@pytest.mark.parametrize("name", slow_except(FAST, COMPARED))
def test_the_same_as_an_independent_implementation(name):
    assert_same_function(ours(name.removesuffix("_timm")), references().BY_NAME[name]())


def test_every_reference_is_compared():
    assert set(references().BY_NAME) == set(COMPARED)


@pytest.mark.parametrize("name", slow_except(["resnet20"], ["resnet20", "resnet56", "resnet110"]))
def test_resnets_with_projections(name):
    assert_same_function(ours(name, "model.shortcut=B"), references().cv(f"{name}_cifar10"))


@pytest.mark.parametrize("name", slow_except(["se_resnet20"], ["se_resnet20", "se_resnet56"]))
def test_se_resnets_with_projections(name):
    assert_same_function(ours(name, "model.shortcut=B"), references().cv(f"{name.replace('_', '')}_cifar10"))


@pytest.mark.parametrize("name", slow_except(["cbam_resnet18"], ["cbam_resnet18", "cbam_resnet50"]))
def test_cbam(name):
    assert_same_function(ours(name), references().cv(name, small_stem=True), pair=shortcuts_last)


@pytest.mark.slow
def test_vgg_without_batch_normalisation():
    assert_same_function(ours("vgg11", "model.batch_norm=false"), references().vision_vgg("vgg11"))


def test_auxiliary_head_of_inception_v3():
    """The head of torchvision on maps of 17 pixels a side, where its pooling and ours are the same."""
    theirs = references().torchvision.models.inception.InceptionAux(768, 10).double().eval()
    mine = ours("inception_v3", "model.auxiliary_head=true").auxiliary_head.double().eval()
    torch.manual_seed(0)
    randomize(theirs, 768, 17, 17)
    for module, other in zip(by_registration(mine, None), by_registration(theirs, None), strict=True):
        module.load_state_dict(other.state_dict())
    maps = torch.randn(2, 768, 17, 17, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(maps)
        mine[0] = nn.AvgPool2d(5, 3)
        torch.testing.assert_close(mine(maps), expected)


def without_shared_activation_in_stage_1(model: nn.Module) -> nn.Module:
    """Both timm and pytorchcv share a block's activation with its shortcut only where that is a projection."""
    model.stages[0][0].activates_shortcut = False
    return model


@pytest.mark.parametrize("name", slow_except(["preresnet20"], ["preresnet20", "preresnet56"]))
def test_preresnets_but_for_the_first_shortcut(name):
    assert_same_function(without_shared_activation_in_stage_1(ours(name)), references().cv(f"{name}_cifar10"))


@pytest.mark.parametrize("depth", slow_except([18], [18, 34]))
def test_preactresnets_but_for_the_first_shortcut(depth):
    mine = without_shared_activation_in_stage_1(ours(f"preactresnet{depth}"))
    assert_same_function(mine, references().timm_preactresnet(depth), pair=by_execution)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_preactresnets_with_bottlenecks(depth):
    assert_same_function(ours(f"preactresnet{depth}"), references().timm_preactresnet(depth), pair=by_execution)
