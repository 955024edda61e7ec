"""Every network of conf/model/: the counts in the head of its file, and what any network of the zoo must do."""

import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hubconf
from engine.build import objects
from engine.training.step import as_tuple
from models.__main__ import as_markdown, entries
from models.layers import SMALLEST_INPUT
from tests.support.marks import slow_except
from tests.support.networks import FAMILIES, GIANTS, SMALL_FAMILIES, make, module_of, relative_error, settling
from tests.support.runs import CONF, ROOT, composed, option_names


def counts(name: str, **settings: Any) -> tuple[int, int, int, int]:
    """Parameters and multiply-adds of one 32x32 image with 10 classes, then with 100: only the heads are larger."""
    with torch.device("meta"):  # without initial weights, which take longer than the forward pass
        model = hubconf.create(name, num_classes=10, **settings).eval()
    model.to_empty(device="cpu")
    multiply_adds, heads = 0, 0

    def add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal multiply_adds, heads
        inputs_of_one = layer.weight[0].numel()
        multiply_adds += output.numel() * inputs_of_one
        heads += 90 * inputs_of_one if output.shape[1:] == (10,) else 0

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ends = [layer for layer in layers if layer.weight.shape[0] == 10]
    wider = 90 * sum(layer.weight[0].numel() + (layer.bias is not None) for layer in ends)
    return parameters, multiply_adds, parameters + wider, multiply_adds + heads


def pinned(name: str) -> tuple[int, ...]:
    """The counts in the head of the network's file, in the order of `counts`."""
    line = (CONF / "model" / f"{name}.yaml").read_text().splitlines()[1]
    said = re.fullmatch(r"# 10 classes: ([\d,]+) parameters, ([\d,]+) multiply-adds; 100: ([\d,]+), ([\d,]+)\.", line)
    return tuple(int(number.replace(",", "")) for number in said.groups())


def is_small(name: str) -> bool:
    """Whether a network is counted in a tenth of a second."""
    return pinned(name)[1] < 300_000_000 and "110" not in name


@pytest.mark.parametrize(
    "name",
    slow_except([*FAMILIES, *filter(is_small, option_names("model"))], option_names("model")),
)
def test_counts(name):
    assert counts(name) == pinned(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_more_classes_widen_the_heads_alone(name):
    """On which `counts` relies."""
    with torch.device("meta"):
        model = hubconf.create(name, num_classes=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == pinned(name)[2]


VARIATIONS = [
    ("resnet20", {"shortcut": "B"}, (272_474, 40_813_184, 278_324, 40_818_944)),
    ("resnet20", {"shortcut": "C"}, (283_962, 42_648_192, 289_812, 42_653_952)),
    ("resnet20", {"shortcut": "A_symmetric"}, (269_722, 40_551_040, 275_572, 40_556_800)),
    ("resnet56", {"shortcut": "B"}, (855_770, 125_747_840, 861_620, 125_753_600)),
    ("resnet110", {"shortcut": "C"}, (1_826_202, 266_781_312, 1_832_052, 266_787_072)),
    ("se_resnet20", {"shortcut": "B"}, (274_847, 40_815_200, 280_697, 40_820_960)),
    ("bam_resnet20", {"shortcut": "B"}, (272_893, 40_884_512, 278_743, 40_890_272)),
    ("cbam_resnet20", {"shortcut": "B"}, (275_747, 41_212_352, 281_597, 41_218_112)),
    ("resnext29", {"cardinality": 1}, (4_914_250, 748_365_824, 5_006_500, 748_457_984)),
    ("wrn28_10", {"depths": [6, 6, 6]}, (55_841_754, 8_074_483_968, 55_899_444, 8_074_541_568)),
    ("sknet50", {"depths": [3, 4, 23, 3]}, (46_699_850, 2_722_603_008, 46_884_260, 2_722_787_328)),
    ("shake_shake26_2x32d", {"width": 112}, (35_640_442, 5_134_799_232, 35_680_852, 5_134_839_552)),
]
for extent, theta, plus in [
    (2, (864_106, 126_066_304, 869_956, 126_072_064), (871_225, 126_287_488, 877_075, 126_293_248)),
    (4, (875_194, 126_211_456, 881_044, 126_217_216), (882_313, 126_266_752, 888_163, 126_272_512)),
    (8, (886_282, 126_247_744, 892_132, 126_253_504), (893_401, 126_261_568, 899_251, 126_267_328)),
    (0, (1_113_082, 125_743_744, 1_118_932, 125_749_504), (1_120_201, 125_749_792, 1_126_051, 125_755_552)),
]:
    for variant, expected in (("theta", theta), ("theta_plus", plus), ("theta_minus", pinned("resnet56"))):
        ge = ("ge_resnet56", {"block_attention": {"extent": extent, "variant": variant}}, expected)
        VARIATIONS.append(ge if extent in (0, 2) else pytest.param(*ge, marks=pytest.mark.slow))


@pytest.mark.parametrize(("name", "settings", "expected"), VARIATIONS, ids=str)
def test_counts_of_variations(name, settings, expected):
    assert counts(name, **settings) == expected


@pytest.mark.parametrize(
    ("name", "heads", "expected"),
    [
        ("googlenet", "auxiliary_heads", (10_333_886, 10_610_636)),
        ("inception_v3", "auxiliary_head", (24_371_444, 24_625_064)),
    ],
)
def test_parameters_of_auxiliary_heads(name, heads, expected):
    with torch.device("meta"):
        networks = [hubconf.create(name, num_classes=classes, **{heads: True}) for classes in (10, 100)]
    assert tuple(sum(one.numel() for one in network.parameters()) for network in networks) == expected


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.4])
def test_width_multipliers_against_torchvision(factor):
    import torchvision

    with torch.device("meta"):
        ours = hubconf.create("mobilenet_v2", num_classes=1000, width=factor)
        theirs = torchvision.models.mobilenet_v2(width_mult=factor)
    assert sum(one.numel() for one in ours.parameters()) == sum(one.numel() for one in theirs.parameters())


def test_the_width_of_mobilenet_v1():
    """Howard et al. 2017, table 1, every layer half as wide: 3x3 depthwise and 1x1 pointwise, each normalised."""
    widths = [16, 32, 64, 64, 128, 128, *[256] * 6, 512, 512]
    separable = sum(9 * narrow + 2 * narrow + narrow * wide + 2 * wide for narrow, wide in pairwise(widths))
    with torch.device("meta"):
        model = hubconf.create("mobilenet_v1", num_classes=10, width=0.5)
    assert sum(one.numel() for one in model.parameters()) == 27 * 16 + 2 * 16 + separable + 512 * 10 + 10


# ResNet-1202 adds 600 normalised branches and has no normalisation before its head, so that its
# features and with them the first logits are larger than those of any other network.
FIRST_LOSS = {"resnet1202": 4.5}


LARGE = {"alexnet_2012", "inception_v2", "inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2"}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LARGE])
def test_what_every_family_does(name):
    check_network(name, *FAMILIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in option_names("model") if name not in GIANTS])
def test_what_every_network_does(name):
    check_network(name)


def check_network(name: str, *overrides: str) -> None:
    """One pass through the obligations of a network of the zoo; the message of a failure says which."""
    model = settling(make(name, *overrides))

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
    objects.optimizer(composed("optimizer.lr=1e-4"), model).step()

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

        # Another memory format, the same result.
        model.to(memory_format=torch.channels_last)
        other = model(images[:2].to(memory_format=torch.channels_last))
        assert relative_error(other, together) < 1e-10, "channels_last computes something else"
        model.to(memory_format=torch.contiguous_format)

    # Its state can be saved and put into another network of its kind.
    twin = make(name, *overrides).double().eval()
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(images[:1]), model(images[:1])), "a copy of the state computes something else"


PARTS = {"__init__", "__main__", "layers", "attention", "drop_block", "shake_drop"}


def test_every_family_is_there():
    """Each file of models/ that defines a network has a variant in conf/model/."""
    used = {module_of(name) for name in FAMILIES}
    files = {file.stem for file in (ROOT / "models").glob("*.py")} - PARTS
    assert used == files


@pytest.mark.parametrize("name", slow_except(["resnet20"], FAMILIES))
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
    """torch.compile gives the same logits and the same gradients; float64 as above.

    The default backend takes up to a minute of a network: where it is not used, the compiler's tracing is tested.
    """
    model = settling(make(name, *FAMILIES[name])).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    model.train()(images)
    model.eval()
    backend = "inductor" if name in ("lenet5", "resnet20") else "aot_eager"
    found, expected = torch.compile(model, backend=backend)(images), model(images)
    assert relative_error(found, expected) < 1e-10
    weight = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    gradients = [torch.autograd.grad(logits.sum(), weight)[0] for logits in (found, expected)]
    assert relative_error(*gradients) < 1e-7  # compiled hard-swish's backward has constants in float32


@pytest.mark.parametrize("name", slow_except(["densenet100bc"], ["resnet20", "preresnet20", "densenet100bc"]))
def test_checkpointing_changes_nothing(name):
    """Gradients, running statistics and the number of batches counted, bit by bit; dropout included."""
    results = []
    for checkpointing in ("false", "true"):
        model = make(name, f"model.gradient_checkpointing={checkpointing}", "regularization=[dropout]").train()
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
