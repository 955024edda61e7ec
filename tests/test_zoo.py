"""Every network of conf/model/: the counts in the head of its file, and what any network of the zoo must do."""

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import CONF, composed, option_names
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from engine import build
from engine.step import as_tuple
from models.__main__ import as_markdown, entries
from models.layers import SMALLEST_INPUT

ROOT = Path(__file__).resolve().parent.parent

# Hundreds of layers or billions of multiply-adds: minutes in all, run with `-m slow`.
GIANTS = {"resnet1202", "preresnet1202", "preresnet1001", "densenet190bc", "inception_resnet_v2", "inception_v4"}
GIANTS |= {"resnext29_16x64d", "se_resnext29_16x64d", "cbam_resnext29_16x64d", "resnet152", "preactresnet152"}
GIANTS |= {"se_resnet152", "se_resnet101", "bam_resnet101", "preactresnet101", "resnet101", "resnext101_32x4d"}

ALL = [pytest.param(name, marks=pytest.mark.slow if name in GIANTS else ()) for name in option_names("model")]

# One small variant of each family.
FAMILIES = {
    "lenet5": (),
    "alexnet": (),
    "alexnet_2012": (),
    "vgg11": (),
    "googlenet": (),
    "inception_v2": (),
    "inception_v3": (),
    "inception_v4": (),
    "inception_resnet_v1": (),
    "inception_resnet_v2": (),
    "resnet20": (),
    "preresnet20": (),
    "wrn16_8": ("model.widths=[32,64,128]",),
    "resnext29_32x4d": (),
    "densenet100bc": ("model.depths=[4,4,4]",),
    "se_resnet20": (),
    "bam_resnet20": (),
    "cbam_resnet20": (),
    "ge_resnet56": ("model.depths=[3,3,3]",),
    "sknet26": (),
    "mobilenet_v1": (),
    "mobilenet_v2": (),
    "mobilenet_v3_small": (),
    "shake_shake26_2x32d": (),
    "airbench94": (),
}

# Where a test takes minutes: without what is another one's family in twice its time.
SMALL_FAMILIES = [name for name in FAMILIES if name != "inception_resnet_v2"]


def make(name: str, *overrides: str, num_classes: int = 10) -> nn.Module:
    """A network by name, with weights that follow from the name alone."""
    torch.manual_seed(0)
    config = composed(f"model={name}", *overrides)
    return build.network(build.plain(config.model), num_classes=num_classes, in_channels=3)


def parameters(model: nn.Module) -> int:
    """Numbers that training adjusts, and a few that Airbench's network holds still."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds for one 32x32 image, on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def counts(name: str, *overrides: str) -> tuple[int, ...]:
    """Parameters and multiply-adds at 10 classes, then at 100, without computing anything."""
    found = []
    for num_classes in (10, 100):
        with torch.device("meta"):
            model = make(name, *overrides, num_classes=num_classes)
        found += [parameters(model), multiply_adds(model)]
    return tuple(found)


def pinned(name: str) -> tuple[int, ...]:
    """What the head of the network's file says, in the order of `counts`."""
    line = (CONF / "model" / f"{name}.yaml").read_text().splitlines()[1]
    said = re.fullmatch(r"# 10 classes: ([\d,]+) parameters, ([\d,]+) multiply-adds; 100: ([\d,]+), ([\d,]+)\.", line)
    return tuple(int(number.replace(",", "")) for number in said.groups())


@pytest.mark.parametrize("name", ALL)
def test_counts(name):
    assert counts(name) == pinned(name)


VARIATIONS = {
    ("resnet20", "model.shortcut=B"): (272_474, 40_813_184, 278_324, 40_818_944),
    ("resnet20", "model.shortcut=C"): (283_962, 42_648_192, 289_812, 42_653_952),
    ("resnet56", "model.shortcut=B"): (855_770, 125_747_840, 861_620, 125_753_600),
    ("resnet56", "model.shortcut=C"): (900_858, 132_301_440, 906_708, 132_307_200),
    ("resnet110", "model.shortcut=C"): (1_826_202, 266_781_312, 1_832_052, 266_787_072),
    ("resnet20", "model.shortcut=A_symmetric"): (269_722, 40_551_040, 275_572, 40_556_800),
    ("se_resnet20", "model.shortcut=B"): (274_847, 40_815_200, 280_697, 40_820_960),
    ("bam_resnet20", "model.shortcut=B"): (272_893, 40_884_512, 278_743, 40_890_272),
    ("cbam_resnet20", "model.shortcut=B"): (275_747, 41_212_352, 281_597, 41_218_112),
    ("resnext29", "model.cardinality=1"): (4_914_250, 748_365_824, 5_006_500, 748_457_984),
    ("wrn28_10", "model.depths=[6,6,6]"): (55_841_754, 8_074_483_968, 55_899_444, 8_074_541_568),
    ("sknet50", "model.depths=[3,4,23,3]"): (46_699_850, 2_722_603_008, 46_884_260, 2_722_787_328),
    ("shake_shake26_2x32d", "model.width=112"): (35_640_442, 5_134_799_232, 35_680_852, 5_134_839_552),
    ("googlenet", "model.auxiliary_heads=true"): (10_333_886, 1_561_143_296, 10_610_636, 1_561_235_456),
    ("inception_v3", "model.auxiliary_head=true"): (24_371_444, 3_631_154_176, 24_625_064, 3_631_338_496),
}
for variant, extent, theta, plus in [
    ("resnet56", 2, (864_106, 126_066_304, 869_956, 126_072_064), (871_225, 126_287_488, 877_075, 126_293_248)),
    ("resnet56", 4, (875_194, 126_211_456, 881_044, 126_217_216), (882_313, 126_266_752, 888_163, 126_272_512)),
    ("resnet56", 8, (886_282, 126_247_744, 892_132, 126_253_504), (893_401, 126_261_568, 899_251, 126_267_328)),
    ("resnet56", 0, (1_113_082, 125_743_744, 1_118_932, 125_749_504), (1_120_201, 125_749_792, 1_126_051, 125_755_552)),
]:
    extent_is = f"model.block_attention.extent={extent}"
    VARIATIONS[f"ge_{variant}", f"{extent_is} model.block_attention.variant=theta"] = theta
    VARIATIONS[f"ge_{variant}", f"{extent_is} model.block_attention.variant=theta_plus"] = plus
    VARIATIONS[f"ge_{variant}", f"{extent_is} model.block_attention.variant=theta_minus"] = pinned(variant)


@pytest.mark.parametrize(("name", "overrides"), VARIATIONS, ids=str)
def test_counts_of_variations(name, overrides):
    assert counts(name, *overrides.split()) == VARIATIONS[name, overrides]


def test_width_multipliers_against_torchvision():
    import torchvision

    for factor in (0.5, 0.75, 1.4):
        ours = make("mobilenet_v2", f"model.width={factor}", num_classes=1000)
        assert parameters(ours) == parameters(torchvision.models.mobilenet_v2(width_mult=factor))


# ResNet-1202 adds 600 normalised branches and has no normalisation before its head, so that its
# features and with them the first logits are larger than those of any other network.
FIRST_LOSS = {"resnet1202": 4.5}


def settling(model: nn.Module) -> nn.Module:
    """The network with batch statistics that one pass in training settles, as a run does before it evaluates."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ALL)
def test_what_every_network_does(name):
    """One pass through the obligations of a network of the zoo; the message of a failure says which."""
    model = settling(make(name))

    # Training: a loss near ln K at the start, and a finite gradient for every parameter.
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 5, 9])
    loss = F.cross_entropy(as_tuple(model.train()(images))[0], labels)
    assert math.log(10) * 0.8 < loss.item() < FIRST_LOSS.get(name, math.log(10) * 1.2), f"the loss is {loss.item():.2f}"
    loss.backward()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), f"{key} has a gradient that is not finite"
    build.optimizer(composed(f"model={name}", "optimizer.lr=1e-4"), model).step()

    # Evaluation: finite logits, and images of other sizes: larger ones are taken, smaller ones refused.
    model.eval()
    with torch.no_grad():
        for size in (32, 40, 64):
            logits = model(torch.randn(1, 3, size, size))
            assert logits.shape == (1, 10), f"images of {size} pixels"
            assert logits.isfinite().all(), f"images of {size} pixels"
        with pytest.raises(ValueError, match=f"at least {SMALLEST_INPUT}x{SMALLEST_INPUT}"):
            model(torch.zeros(1, 3, 32, 31))

    # Images that do not see each other, and a batch of one. In float64: a thousand layers
    # amplify the rounding of float32 beyond any bound that would still find a mistake.
    model.double()
    images = images.double()
    with torch.no_grad():
        together = model(images[:2])
        alone = torch.cat([model(images[:1]), model(images[1:2])])
        assert relative_error(alone, together) < 1e-10, "the images of a batch see each other"

        # Another order of the numbers in memory, the same result.
        model.to(memory_format=torch.channels_last)
        other = model(images[:2].to(memory_format=torch.channels_last))
        assert relative_error(other, together) < 1e-10, "channels_last computes something else"
        model.to(memory_format=torch.contiguous_format)

    # Its state can be saved and put into another network of its kind.
    twin = make(name, num_classes=10).double().eval()
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(images[:1]), model(images[:1])), "a copy of the state computes something else"


PARTS = {"__init__", "__main__", "layers", "attention", "drop_block", "shake_drop"}


def test_every_family_is_there():
    """Each file of models/ that defines a network has a variant among those below."""
    used = {make_target(name).split(".")[1] for name in FAMILIES}
    files = {file.stem for file in (ROOT / "models").glob("*.py")} - PARTS
    assert used == files


def make_target(name: str) -> str:
    """The class that a variant is built of."""
    return composed(f"model={name}").model._target_


@pytest.mark.parametrize("name", FAMILIES)
def test_export(name):
    """torch.export gives a program that computes the same, for any number of images."""
    model = make(name, *FAMILIES[name]).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},)).module()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_FAMILIES)
def test_compile(name):
    """torch.compile gives the same logits and the same gradients; float64 as above."""
    model = settling(make(name, *FAMILIES[name])).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    model.train()(images)
    model.eval()
    found, expected = torch.compile(model)(images), model(images)
    assert relative_error(found, expected) < 1e-10
    weight = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    gradients = [torch.autograd.grad(logits.sum(), weight)[0] for logits in (found, expected)]
    assert relative_error(*gradients) < 1e-7  # compiled hard-swish's backward has constants in float32


@pytest.mark.parametrize("name", ["resnet20", "preresnet20", "densenet100bc"])
def test_checkpointing_changes_nothing(name):
    """Gradients, running statistics and the number of batches counted, bit by bit; dropout included."""
    results = []
    for checkpointing in ("false", "true"):
        model = make(name, f"model.checkpointing={checkpointing}", "regularization=[dropout]").train()
        torch.manual_seed(1)
        images = torch.randn(4, 3, 32, 32, requires_grad=True)
        F.cross_entropy(model(images), torch.arange(4)).backward()
        results.append([*(parameter.grad for parameter in model.parameters()), *model.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_table_is_complete_and_current():
    assert sorted(entry.name for entry in entries()) == option_names("model")
    readme = (ROOT / "README.md").read_text()
    assert as_markdown() in readme, "the README's table is not what `python -m models --markdown` prints"


def test_the_zoo_is_printed_without_torch(command):
    ended = command("-m", "models", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    for name in option_names("model"):
        assert re.search(rf"^{name} +[\d,]+ +[\d,]+ +\d{{4}} ", ended.stdout, re.M), name
    ended = command("-c", "import models.__main__, sys; assert 'torch' not in sys.modules", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
