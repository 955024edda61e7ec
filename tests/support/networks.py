"""Networks of the zoo by name, and one small variant of each family."""

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.build import objects
from engine.config.did_you_mean import CONF
from tests.support.runs import composed, option_names


def module_of(name: str) -> str:
    """The file of models/ that has the class of conf/model/`name`.yaml, which may inherit it."""
    settings = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    if "_target_" in settings:
        return settings["_target_"].split(".")[1]
    return module_of(next(base for base in settings["defaults"] if base != "_self_"))


# Hundreds of layers or billions of multiply-adds, of classes that smaller networks have as well.
GIANTS = {"resnet1202", "preresnet1202", "preresnet1001", "densenet190bc", "inception_resnet_v2", "inception_v4"}
GIANTS |= {"resnext29_16x64d", "se_resnext29_16x64d", "cbam_resnext29_16x64d", "resnet152", "preactresnet152"}
GIANTS |= {"se_resnet152", "se_resnet101", "bam_resnet101", "preactresnet101", "resnet101", "resnext101_32x4d"}


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
    "sknet26": ("model.depths=[1,1,1,1]", "model.width=32", "model.groups=8"),
    "mobilenet_v1": (),
    "mobilenet_v2": (),
    "mobilenet_v3_small": (),
    "shake_shake26_2x32d": (),
    "airbench94": (),
}
# Of a family that is not listed, the first variant.
_LISTED = {module_of(name) for name in FAMILIES}
for _name in option_names("model"):
    if module_of(_name) not in _LISTED:
        _LISTED.add(module_of(_name))
        FAMILIES[_name] = ()


# Where a test takes minutes: without those whose blocks are another one's, in several times its time.
SMALL_FAMILIES = [name for name in FAMILIES if name not in ("inception_v3", "inception_v4", "inception_resnet_v2")]


def make(name: str, *overrides: str, num_classes: int = 10) -> nn.Module:
    """A network by name, with weights that follow from the name alone."""
    torch.manual_seed(0)
    config = composed(f"model={name}", *overrides)
    return objects.network(objects.plain(config.model), num_classes=num_classes, in_channels=3)


def parameters(model: nn.Module) -> int:
    """Numbers that training adjusts, and a few that Airbench's network holds still."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds for one 32x32 image, on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def settling(model: nn.Module) -> nn.Module:
    """The network with batch statistics that one pass in training settles, as a run does before it evaluates."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    return model


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def randomize(model: nn.Module, *shape: int) -> None:
    """Random scales, shifts and biases, and the statistics of random images of a shape; weights stay as they are.

    With statistics of chance what an image is would fade from layer to layer, until all are said to be the same.
    """
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    model.train()(torch.randn(8, *(shape or (3, 32, 32)), dtype=next(model.parameters()).dtype))
    model.eval()
