"""What no other implementation can vouch for, against small cases written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import drop_block2d

import hubconf
from data.loader import Normalize
from engine.build import objects
from engine.inference.load import model_settings
from models.airbench import Airbench, Block, Conv
from models.alexnet import AlexNet2012
from models.attention import BottleneckAttention, ConvBlockAttention, GatherExcite, SqueezeExcitation
from models.drop_block import DropBlock
from models.layers import BlockSettings, DropPath, Float32Conv2d, block_settings, depthwise_conv
from models.preresnet import ORDERS, Addition, PreActivationBlock
from models.resnet import ZeroPadShortcut, make_shortcut
from models.resnext import ResNeXtBlock
from models.shake_drop import ShakeDrop
from models.shake_shake import ShakeShakeBlock, TwoPathShortcut, mix
from models.sknet import SelectiveKernel
from tests.support.marks import slow_except
from tests.support.runs import composed, option_names


def make(name: str, *overrides: str) -> nn.Module:
    """A network by name."""
    config = composed(f"model={name}", *overrides)
    return objects.network(objects.plain(config.model), num_classes=10, in_channels=3)


def block_at(stride: int = 1, *, is_first: bool = False) -> BlockSettings:
    """Where a block of a test stands."""
    return BlockSettings(stage=0, is_first=is_first, stride=stride, size=8)


def random_statistics(module: nn.Module) -> nn.Module:
    """The module in evaluation mode and float64, with statistics, scales and shifts that matter."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (part.running_mean, part.bias):
                nn.init.normal_(tensor)
            for tensor in (part.running_var, part.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module.double().eval()


def images(*shape: int) -> torch.Tensor:
    """Random maps."""
    return torch.randn(*shape, dtype=torch.float64)


# Residual networks


@pytest.mark.parametrize(("option", "first"), [("A", 0), ("A_symmetric", 1)])
def test_zero_padding_keeps_every_other_pixel_and_says_where_the_zeros_go(option, first):
    x = torch.arange(1, 33.0).view(1, 2, 4, 4)
    y = make_shortcut(option, 2, 5, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert y[0, first].tolist() == [[1, 3], [9, 11]]
    assert y[0, first + 1].tolist() == [[17, 19], [25, 27]]
    assert y[0].sum() == x[0, :, ::2, ::2].sum()
    assert sum(parameter.numel() for parameter in make_shortcut(option, 2, 5, 2).parameters()) == 0


def test_each_shortcut_stands_where_its_option_says():
    kinds = {
        option: [type(make_shortcut(option, *shape)) for shape in ((16, 16, 1), (16, 32, 2))]
        for option in ("A", "B", "C")
    }
    assert kinds == {
        "A": [nn.Identity, ZeroPadShortcut],
        "B": [nn.Identity, nn.Sequential],
        "C": [nn.Sequential, nn.Sequential],
    }


def test_places_halve_the_image_and_drop_more_and_more():
    found = [(p.stage, p.stride, p.size, round(p.drop_path, 3)) for p in block_settings([2, 3], drop_path=0.5)]
    assert found == [(0, 1, 32, 0.1), (0, 1, 32, 0.2), (1, 2, 16, 0.3), (1, 1, 16, 0.4), (1, 1, 16, 0.5)]


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = torch.ones(20_000, 1, 1, 1)
    drop = DropPath(0.3).train()
    y = drop(x).flatten()
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(x), x)


def test_drop_block_hides_squares_as_algorithm_1_has_them():
    """Square by square from the corners drawn; torchvision's draws are the same."""
    x = torch.rand(3, 2, 9, 12) + 1
    for seed in range(20):
        torch.manual_seed(seed)
        found = DropBlock(rate=0.2, size=3).train()(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, drop_block2d(x, 0.2, 3), rtol=1e-5, atol=0)
        torch.manual_seed(seed)
        corners = torch.empty(3, 2, 7, 10).bernoulli_(0.2 * 9 * 12 / (9 * 7 * 10))
        kept = torch.ones_like(x)
        for image, channel, row, column in corners.nonzero().tolist():
            kept[image, channel, row : row + 3, column : column + 3] = 0
        torch.testing.assert_close(found, x * kept * kept.numel() / kept.sum())


def test_drop_block_hides_its_share_and_keeps_the_mean():
    """In a large map few pixels are hidden twice; in a small one squares are as large as the map."""
    block, x = DropBlock(rate=0.1, size=4).train(), torch.ones(500, 8, 32, 32)
    y = block(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert y.mean().item() == pytest.approx(1, abs=1e-4)
    small = block(torch.ones(4000, 1, 2, 3))
    assert (small == 0).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(block.eval()(x), x)
    assert not DropBlock(rate=0.99, size=1).train()(torch.ones(1, 1, 1, 1)).isnan().any()


def test_shake_drop_in_both_directions():
    """Kept branches pass as they are; the others by alpha in [-1, 1], and their gradients by beta in [0, 1]."""
    x = torch.ones(40_000, 1, 1, 1, requires_grad=True)
    drop = ShakeDrop(0.3).train()
    y = drop(x)
    y.sum().backward()
    seen, gradient = y.detach().flatten(), x.grad.flatten()
    shaken = seen != 1
    assert shaken.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (gradient[~shaken] == 1).all()
    assert seen[shaken].min() < -0.99
    assert seen[shaken].mean().item() == pytest.approx(0, abs=0.02)
    assert seen[shaken].max() <= 1
    assert gradient[shaken].mean().item() == pytest.approx(0.5, abs=0.02)
    assert 0 <= gradient[shaken].min() < 0.01
    assert torch.corrcoef(torch.stack([seen[shaken], gradient[shaken]]))[0, 1].abs() < 0.03
    torch.testing.assert_close(drop.eval()(x).mean(), seen.mean(), rtol=0, atol=0.01)


def test_shake_drop_keeps_small_rates_in_bf16():
    """Drawn in bf16 chances are multiples of 1/256, of which three lie below 0.01."""
    shaken = ShakeDrop(0.01).train()(torch.ones(1_000_000, 1, 1, 1, dtype=torch.bfloat16)) != 1
    assert shaken.float().mean().item() == pytest.approx(0.01, abs=0.0005)


DROPPED = ["resnet20", "resnet50", "preresnet20", "preresnet164", "wrn16_8", "resnext29"]


@pytest.mark.parametrize("name", slow_except(["resnet20", "preresnet20", "wrn16_8"], DROPPED))
def test_drop_block_stands_behind_every_convolution_and_shortcut_of_the_last_two_stages(name):
    drop_block = composed("model=resnet20", "regularization=[drop_block]").model.drop_block
    with torch.device("meta"):
        model = hubconf.create(name, num_classes=10, drop_block=drop_block)
    *quiet, second_last, last = model.stages
    assert not any(isinstance(module, DropBlock) for stage in quiet for module in stage.modules())
    for block in [*second_last, *last]:
        rows = [module for module in block.modules() if isinstance(module, nn.Sequential)]
        convolutions = sum(isinstance(module, nn.Conv2d) for module in block.residual.modules())
        assert sum(DropBlock in map(type, row) for row in rows) == convolutions + 1
    for stage, rate in ((second_last, 0.025), (last, 0.1)):
        assert {module.rate for module in stage.modules() if isinstance(module, DropBlock)} == {rate}


def test_resnext_blocks_three_forms_agree():
    """Fig. 3 of the paper: paths written out (a), concatenated early (b), and as one grouped convolution (c)."""
    cardinality, width = 4, 3
    block = random_statistics(ResNeXtBlock(8, cardinality * width, 16, block_at(2), cardinality, None))
    reduce, reduce_norm, _, grouped, grouped_norm, _, expand, expand_norm = block.residual
    x = images(2, 8, 6, 6)

    middle = F.relu(reduce_norm(reduce(x)))
    paths = []
    for index in range(cardinality):
        of_path = slice(index * width, (index + 1) * width)
        paths.append(F.conv2d(middle[:, of_path], grouped.weight[of_path], stride=2, padding=1))
    concatenated = F.relu(grouped_norm(torch.cat(paths, dim=1)))
    form_b = expand_norm(expand(concatenated))
    form_a = sum(
        F.conv2d(concatenated[:, part], expand.weight[:, part])
        for part in (slice(index * width, (index + 1) * width) for index in range(cardinality))
    )
    form_a = expand_norm(form_a)
    form_c = block.residual(x)
    torch.testing.assert_close(form_a, form_c)
    torch.testing.assert_close(form_b, form_c)


# Pre-activation


def block_of(order: str = "full_preactivation", shortcut: str = "identity", **options) -> PreActivationBlock:
    """A block whose shapes do not change, with statistics that matter."""
    block = PreActivationBlock(
        6, 6, block_at(**options), expansion=1, order=order, shortcut=shortcut, attention=None, dropout=0.0
    )
    return random_statistics(block)


def layers_of(block: PreActivationBlock) -> tuple[list[nn.Module], list[nn.Module]]:
    """The block's convolutions and its normalisations, each in the order in which they are used."""
    used = [*block.before, *block.residual, *block.after]
    return [[part for part in used if isinstance(part, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d)]


REFERENCES = {
    "original": lambda x, c, n: F.relu(x + n[1](c[1](F.relu(n[0](c[0](x)))))),
    "bn_after_addition": lambda x, c, n: F.relu(n[1](x + c[1](F.relu(n[0](c[0](x)))))),
    "relu_before_addition": lambda x, c, n: x + F.relu(n[1](c[1](F.relu(n[0](c[0](x)))))),
    "relu_only_preactivation": lambda x, c, n: x + n[1](c[1](F.relu(n[0](c[0](F.relu(x)))))),
    "full_preactivation": lambda x, c, n: x + c[1](F.relu(n[1](c[0](F.relu(n[0](x)))))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_orders_of_activation_are_those_of_figure_4(order):
    block, x = block_of(order), images(2, 6, 5, 5)
    convolutions, norms = layers_of(block)
    assert (len(convolutions), len(norms)) == (2, 2)
    torch.testing.assert_close(block(x), REFERENCES[order](x, convolutions, norms))


def test_the_first_block_of_a_stage_activates_before_the_split():
    first, other, x = block_of(is_first=True), block_of(is_first=False), images(2, 6, 5, 5)
    for block, shortcut in ((first, F.relu(first.before[0](x))), (other, x)):
        torch.testing.assert_close(block(x), shortcut + block.residual(block.before(x)))


def test_projections_see_activated_maps_and_have_no_normalisation():
    block = random_statistics(
        PreActivationBlock(
            6,
            8,
            block_at(2, is_first=True),
            expansion=1,
            order="full_preactivation",
            shortcut="identity",
            attention=None,
            dropout=0.0,
        )
    )
    x = images(2, 6, 4, 4)
    projected = F.conv2d(F.relu(block.before[0](x)), block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), projected + block.residual(block.before(x)))


def test_the_additions_are_those_of_table_1():
    x, r = images(2, 6, 5, 5), images(2, 6, 5, 5)

    def addition(kind: str) -> Addition:
        return Addition(kind, 6).double().eval()

    assert torch.equal(addition("identity")(x, r), x + r)
    torch.testing.assert_close(addition("constant_scaling")(x, r), (x + r) / 2)
    exclusive, only = addition("exclusive_gating"), addition("shortcut_only_gating")
    gate = torch.sigmoid(F.conv2d(x, exclusive.gate.weight, exclusive.gate.bias))
    torch.testing.assert_close(exclusive(x, r), (1 - gate) * x + gate * r)
    gate = torch.sigmoid(F.conv2d(x, only.gate.weight, only.gate.bias))
    torch.testing.assert_close(only(x, r), (1 - gate) * x + r)
    convolution = addition("convolution")
    torch.testing.assert_close(convolution(x, r), F.conv2d(x, convolution.convolution.weight) + r)
    dropout = addition("dropout")
    assert torch.equal(dropout(x, r), x + r)
    kept = (dropout.train()(x, r) - r) / x
    assert set(kept.round(decimals=6).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("shortcut", ["constant_scaling", "exclusive_gating", "shortcut_only_gating"])
def test_an_ablation_reaches_the_network_and_gates_start_nearly_closed(shortcut):
    model = make("preresnet20", f"model.shortcut={shortcut}", "model.activation_order=original")
    additions = [module for module in model.modules() if isinstance(module, Addition)]
    kinds = [module.kind for module in additions]
    assert kinds == [*[shortcut] * 3, "identity", *[shortcut] * 2, "identity", *[shortcut] * 2]
    for module in additions:
        if hasattr(module, "gate"):
            assert (module.gate.bias == -6).all()


@pytest.mark.parametrize("order", ORDERS)
def test_stem_and_closing_fit_the_order(order):
    model = make("preresnet20", f"model.activation_order={order}")
    begins = {"full_preactivation": ["BatchNorm2d", "ReLU"], "relu_only_preactivation": ["ReLU"]}.get(order, [])
    assert [type(part).__name__ for part in model.closing] == begins
    assert len(model.stem) == (1 if begins else 3)


# Shake-Shake


def test_mixing_takes_one_share_forward_and_another_backward():
    first, second = torch.tensor([2.0], requires_grad=True), torch.tensor([10.0], requires_grad=True)
    mixed = mix(first, second, torch.tensor(0.25), torch.tensor(0.9))
    assert mixed.item() == pytest.approx(0.25 * 2 + 0.75 * 10)
    mixed.backward()
    assert first.grad.item() == pytest.approx(0.9)
    assert second.grad.item() == pytest.approx(0.1)


def shake_block(forward: str = "shake", backward: str = "shake", level: str = "image") -> ShakeShakeBlock:
    """A block whose branches yield -1 and 1 everywhere, so that its output is 1 - 2 * share, plus x."""
    block = ShakeShakeBlock(4, 4, block_at(), forward_mixing=forward, backward_mixing=backward, level=level)
    for branch, value in zip(block.branches, (-1.0, 1.0), strict=True):
        branch.append(_Constant(value))
    return block


class _Constant(nn.Module):
    """Yields one value, with a gradient of 1 for `self.bias`."""

    def __init__(self, value: float):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x + self.bias


def test_each_image_is_shaken_for_itself_and_evenly_at_test_time():
    x = torch.zeros(1000, 4, 2, 2)
    shares = (1 - shake_block().train()(x)[:, 0, 0, 0].detach()) / 2
    assert 0 <= shares.min() < 0.01
    assert 0.99 < shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / 12, abs=0.01)
    assert shake_block(level="batch").train()(x).unique().numel() == 1
    assert not shake_block().eval()(x).any()
    assert not shake_block(forward="even").train()(x).any()


@pytest.mark.parametrize("backward", ["shake", "even", "keep"])
def test_the_share_in_the_gradient(backward):
    block = shake_block(backward=backward, level="batch").train()
    y = block(torch.zeros(1, 4, 2, 2))
    forward_share = (1 - y[0, 0, 0, 0].item()) / 2
    y[0, 0, 0, 0].backward()
    first, second = (branch[-1].bias.grad.item() for branch in block.branches)
    assert first + second == pytest.approx(1)
    expected = {"even": 0.5, "keep": forward_share}.get(backward)
    if expected is None:
        assert abs(first - forward_share) > 1e-3
    else:
        assert first == pytest.approx(expected, abs=1e-6)


def test_the_shortcut_sees_the_image_moved_right_and_down():
    shortcut = TwoPathShortcut(1, 2, 2).eval()
    with torch.no_grad():
        shortcut.still.weight.fill_(1.0)
        shortcut.moved.weight.fill_(1.0)
    x = torch.arange(1, 17.0).view(1, 1, 4, 4)
    still, moved = shortcut(x)[0] * (1 + 1e-5) ** 0.5
    torch.testing.assert_close(still, torch.tensor([[1.0, 3.0], [9.0, 11.0]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0.0], [0.0, 6.0]]))
    assert not shortcut(-x).any(), "the shortcut rectifies its input"


# Attention


def dense(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A fully connected layer written out."""
    return x @ layer.weight.T + layer.bias


def test_squeeze_and_excitation():
    module, x = SqueezeExcitation(32, 8, reduction=4).double(), images(2, 32, 5, 5)
    reduce, _, expand = module.excitation
    assert reduce.out_features == 8
    gate = torch.sigmoid(dense(expand, F.relu(dense(reduce, x.mean((2, 3))))))
    torch.testing.assert_close(module(x), x * gate[:, :, None, None])


def test_a_narrow_hidden_layer_keeps_one_channel():
    assert SqueezeExcitation(8, 8, reduction=16).excitation[0].out_features == 1


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_bottleneck_attention(combine):
    module = random_statistics(BottleneckAttention(32, 8, combine=combine))
    x = images(2, 32, 9, 9)
    reduce, channel_norm, _, expand = module.channel
    channel = dense(expand, F.relu(channel_norm(dense(reduce, x.mean((2, 3))))))[:, :, None, None]
    first, norm1, _, second, norm2, _, third, norm3, _, last = module.spatial
    spatial = F.relu(norm1(F.conv2d(x, first.weight, first.bias)))
    spatial = F.relu(norm2(F.conv2d(spatial, second.weight, second.bias, padding=4, dilation=4)))
    spatial = F.relu(norm3(F.conv2d(spatial, third.weight, third.bias, padding=4, dilation=4)))
    spatial = F.conv2d(spatial, last.weight, last.bias)
    assert spatial.shape == (2, 1, 9, 9)
    gate = channel * spatial if combine == "product" else channel + spatial
    torch.testing.assert_close(module(x), x * (1 + torch.sigmoid(gate)))


@pytest.mark.parametrize("pooling", ["both", "average", "max"])
def test_convolutional_block_attention(pooling):
    module = random_statistics(ConvBlockAttention(32, 8, pooling=pooling))
    x = images(2, 32, 5, 5)
    reduce, _, expand = module.channel
    maximum, average = x.flatten(2).max(2).values, x.flatten(2).mean(2)
    used = {"both": [maximum, average], "average": [average], "max": [maximum]}[pooling]
    gate = torch.sigmoid(sum(dense(expand, F.relu(dense(reduce, pooled))) for pooled in used))
    y = x * gate[:, :, None, None]
    maps = {"both": [y.max(1).values, y.mean(1)], "average": [y.mean(1)], "max": [y.max(1).values]}[pooling]
    convolution, norm, _ = module.spatial
    spatial_gate = torch.sigmoid(norm(F.conv2d(torch.stack(maps, dim=1), convolution.weight, padding=3)))
    torch.testing.assert_close(module(x), y * spatial_gate)


def test_the_spatial_gate_of_cbam_starts_at_a_half():
    module = ConvBlockAttention(16, 8)
    assert (module.spatial(torch.randn(3, 2, 6, 6)) == 0.5).all()
    assert module.spatial[1].momentum == 0.01


@pytest.mark.parametrize("extent", [2, 4, 8])
def test_gathering_without_parameters(extent):
    """Means over overlapping windows, at the border over the pixels that there are, spread to the nearest pixels."""
    x = images(1, 2, 8, 8)
    module = GatherExcite(2, 8, extent=extent, variant="theta_minus")
    expected = torch.empty_like(x)
    for row in range(8):
        for column in range(8):
            top, left = row // extent * extent, column // extent * extent
            window = x[:, :, max(top - extent + 1, 0) : top + extent, max(left - extent + 1, 0) : left + extent]
            expected[:, :, row, column] = window.mean((2, 3))
    assert sum(parameter.numel() for parameter in module.parameters()) == 0
    torch.testing.assert_close(module(x), x * torch.sigmoid(expected))


def test_gathering_the_whole_map_without_parameters():
    x = images(2, 3, 8, 8)
    module = GatherExcite(3, 8, extent=0, variant="theta_minus")
    torch.testing.assert_close(module(x), x * torch.sigmoid(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize(("extent", "steps"), [(2, 1), (4, 2), (8, 3)])
def test_gathering_by_convolutions(extent, steps):
    module, x = random_statistics(GatherExcite(4, 8, extent=extent, variant="theta")), images(2, 4, 8, 8)
    convolutions = [part for part in module.gather if isinstance(part, nn.Conv2d)]
    norms = [part for part in module.gather if isinstance(part, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == steps
    gathered = x
    for index, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        gathered = F.relu(gathered) if index else gathered
        gathered = norm(F.conv2d(gathered, convolution.weight, stride=2, padding=1, groups=4))
    assert gathered.shape[-1] == 8 // extent
    spread = gathered.repeat_interleave(extent, 2).repeat_interleave(extent, 3)
    torch.testing.assert_close(module(x), x * torch.sigmoid(spread))


def test_exciting_by_two_layers_behind_a_relu():
    """Theta-plus of global extent, with the ReLU of the authors' networks that some ports leave out."""
    module, x = random_statistics(GatherExcite(32, 8, extent=0, variant="theta_plus")), images(2, 32, 8, 8)
    convolution, norm = module.gather
    gathered = norm((x * convolution.weight[:, 0]).sum((2, 3))[:, :, None, None])
    _, reduce, _, expand = module.excite
    excited = expand(F.relu(reduce(F.relu(gathered))))
    assert reduce.out_channels == 2
    torch.testing.assert_close(module(x), x * torch.sigmoid(excited))


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
@pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
def test_gather_excite_takes_larger_maps(extent, variant):
    module = GatherExcite(4, 8, extent=extent, variant=variant)
    for size in (8, 10, 16):
        assert module(torch.randn(2, 4, size, size)).shape == (2, 4, size, size)


def test_selective_kernels_are_weighed_channel_by_channel():
    unit = random_statistics(
        SelectiveKernel(8, 8, 1, kernels=[3, 3], dilations=[1, 2], groups=4, reduction=2, smallest=4)
    )
    x = images(2, 8, 6, 6)
    first, second = (branch(x) for branch in unit.branches)
    layer, norm, _ = unit.fuse
    fused = F.relu(norm((first + second).mean((2, 3)) @ layer.weight.T))
    scores = (fused @ unit.select.weight.T).view(2, 2, 8)
    share = (scores[:, 0].exp() / scores.exp().sum(1))[:, :, None, None]
    torch.testing.assert_close(unit(x), share * first + (1 - share) * second)


@pytest.mark.parametrize("attention", slow_except(["cbam", "ge"], option_names("attention")))
@pytest.mark.parametrize(
    ("family", "where"),
    [
        *((family, "block_attention") for family in ("resnet20", "preresnet20", "wrn16_8", "resnext29_32x4d")),
        *((family, "stage_attention") for family in ("resnet20", "preresnet20")),
    ],
)
def test_any_attention_works_with_any_residual_family(attention, family, where):
    model = make(family, f"+attention@model.{where}={attention}", "model.depths=[1,2,1]")
    kinds = (SqueezeExcitation, BottleneckAttention, ConvBlockAttention, GatherExcite)
    modules = [module for module in model.modules() if isinstance(module, kinds)]
    stages = len(model.stages)
    blocks = sum(len([b for b in stage if not isinstance(b, kinds)]) for stage in model.stages)
    assert len(modules) == (blocks if where == "block_attention" else stages - 1)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


INCEPTIONS = ["googlenet", "inception_v2", "inception_v3", "inception_v4", "inception_resnet_v1"]


@pytest.mark.parametrize("family", slow_except(["googlenet", "inception_resnet_v1"], INCEPTIONS))
def test_squeeze_and_excitation_works_with_inception(family):
    blocks = {"googlenet": 9, "inception_v2": 10, "inception_v3": 11, "inception_v4": 16, "inception_resnet_v1": 20}
    with torch.device("meta"):
        model = make(family, "+attention@model.block_attention=se")
        modules = [module for module in model.modules() if isinstance(module, SqueezeExcitation)]
        assert len(modules) == blocks[family]
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


# The other families


@pytest.mark.parametrize(
    ("name", "key", "heads"), [("googlenet", "auxiliary_heads", 2), ("inception_v3", "auxiliary_head", 1)]
)
def test_auxiliary_heads_speak_in_training_only(name, key, heads):
    with torch.device("meta"):
        model, x = hubconf.create(name, num_classes=10, **{key: True}), torch.randn(2, 3, 32, 32)
        outputs = model.train()(x)
        assert len(outputs) == 1 + heads
        assert all(logits.shape == (2, 10) for logits in outputs)
        assert model.eval()(x).shape == (2, 10)
        assert model.train()(torch.randn(2, 3, 48, 48))[1].shape == (2, 10)


def test_alexnet_of_2012_begins_as_its_paper_says():
    model = AlexNet2012(num_classes=10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [module.bias.unique().tolist() for module in [*convolutions, *linears]] == [
        [0],
        [1],
        [0],
        [1],
        [1],
        [1],
        [1],
        [0],
    ]
    for module in [*convolutions, *linears]:
        assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", ["vgg11", "googlenet", "resnet20", "preresnet20", "densenet100bc", "mobilenet_v1"])
def test_convolutions_begin_by_hes_rule(name):
    """He et al. 2015, sec. 2.2, in its fan-out form: variance 2 / (k*k*out_channels)."""
    for module in make(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.var().item() == pytest.approx(2 / fan_out, rel=0.1)


def test_local_response_normalisation_is_the_papers():
    model, x = AlexNet2012(num_classes=10), torch.rand(1, 96, 2, 2) * 20
    found = model.stages[0][2](x)
    expected = torch.empty_like(x)
    for channel in range(96):
        around = x[:, max(channel - 2, 0) : channel + 3]
        expected[:, channel] = x[:, channel] / (2 + 1e-4 * around.square().sum(1)) ** 0.75
    torch.testing.assert_close(found, expected)


def test_vgg_without_normalisation_begins_by_glorots_rule():
    model = make("vgg16", "model.batch_norm=false")
    for module in model.modules():
        assert not isinstance(module, nn.BatchNorm2d)
        if isinstance(module, nn.Conv2d):
            fans = 9 * (module.in_channels + module.out_channels)
            assert module.weight.var().item() == pytest.approx(2 / fans, rel=0.1)


def test_airbench_whitens_patches():
    """The stem's outputs, which come in pairs of opposite sign, have unit variance and no correlation."""
    model = Airbench(num_classes=10, widths=[8, 8, 8], depth=2)
    faces = F.interpolate(torch.randn(600, 3, 16, 16), scale_factor=2, mode="bilinear")  # neighbours are alike
    model.prepare(faces)
    with torch.no_grad():
        outputs = F.conv2d(faces, model.stem[0].weight).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs[12:], -outputs[:12])
    moments = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    scales = moments.diag()
    assert scales.max() < 1
    assert scales.max() > 0.9, "what varies has unit variance, but for what keeps the smallest from being blown up"
    torch.testing.assert_close(moments, scales.diag(), atol=1e-3, rtol=0)


def test_airbench_convolutions_begin_by_handing_their_input_on():
    conv, x = Conv(6, 8).double(), images(2, 6, 5, 5)
    assert torch.equal(conv(x)[:, :6], x)
    assert Conv(8, 8)(torch.ones(1, 8, 4, 4)).eq(1).all()


@pytest.mark.parametrize("depth", [2, 3])
def test_airbench_block_by_hand(depth):
    block = random_statistics(Block(4, 6, depth))
    convs = [part for part in block.modules() if isinstance(part, Conv)]
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == depth
    x = images(2, 4, 8, 8)

    def normalised(norm, y):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-12)

    first = F.gelu(normalised(norms[0], F.max_pool2d(F.conv2d(x, convs[0].weight, padding=1), 2)))
    y = normalised(norms[1], F.conv2d(first, convs[1].weight, padding=1))
    if depth == 3:
        y = first + normalised(norms[2], F.conv2d(F.gelu(y), convs[2].weight, padding=1))
    torch.testing.assert_close(block(x), F.gelu(y))


def test_airbench_holds_its_filters_and_scales_still_while_it_trains(train):
    """The whitening filters come from the training images, the scales of its norms are 1."""
    run = train("model=airbench94", "model.widths=[8,8,8]", "regularization=[max_norm]", "trainer.max_epochs=1")
    state = run.checkpoint()["state"]["model"]
    filters = state["stem.0.weight"]
    config = composed("model=airbench94", "model.widths=[8,8,8]", "dataset=shapes", "dataset.train_size=100")
    splits = objects.splits(config)
    normalize = Normalize(splits.mean, splits.std, torch.device("cpu"), torch.contiguous_format)
    twin = Airbench(num_classes=10, widths=[8, 8, 8], depth=2)
    twin.prepare(normalize(splits.train.images))
    assert torch.equal(filters, twin.stem[0].weight)
    assert filters.flatten(1).norm(dim=1).max() > 2, "max_norm leaves what is not trained alone"
    assert state["stem.0.bias"].any()
    for key, value in state.items():
        if value.ndim == 1 and key.endswith(".weight"):
            assert value.eq(1).all(), key


# Regularizers with a place in the network

WITHOUT_BRANCHES = {"lenet", "alexnet", "vgg", "googlenet", "inception_v2", "inception_v3", "inception_v4"}
WITHOUT_BRANCHES |= {"inception_resnet", "densenet", "shake_shake", "airbench"}
# fmt: off
ONE_OF_A_KIND = [
    "lenet5", "alexnet", "alexnet_2012", "vgg11", "googlenet", "inception_v2", "inception_v3", "inception_v4",
    "inception_resnet_v1", "inception_resnet_v2", "resnet20", "resnet50", "preresnet20", "preresnet164", "wrn16_8",
    "resnext29", "densenet100bc", "se_resnet20", "bam_resnet20", "cbam_resnext29_8x64d", "ge_resnet56", "sknet26",
    "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shake_shake26_2x32d", "airbench94",
]
# fmt: on


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_dropout_and_drop_path_have_their_places(name):
    """Dropout in every network, drop path in every residual branch; a network without branches refuses it."""
    settings = model_settings(name)
    family = settings["_target_"].split(".")[1]
    has_branches = family not in WITHOUT_BRANCHES and name != "mobilenet_v1"
    rates = {"dropout": 0.125, **({"drop_path": 0.2} if has_branches else {})}
    with torch.device("meta"):
        model = objects.network(settings | rates, num_classes=10, in_channels=3)
    places = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p == 0.125]
    if family in ("preresnet", "densenet"):  # between the convolutions of a block; after those of a dense layer
        assert len(places) == sum(settings["depths"])
    else:
        assert len(places) == {"lenet": 2, "alexnet": 2 if name == "alexnet_2012" else 1}.get(family, 1)
    if not has_branches:
        with pytest.raises(TypeError, match="drop_path"):
            objects.network(settings | {"drop_path": 0.2}, num_classes=10, in_channels=3)
        return
    dropped = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert dropped == sorted(dropped)
    if family == "mobilenet":  # only blocks that add their input have a branch to drop
        assert len(dropped) == {"mobilenet_v2": 10, "mobilenet_v3_large": 10, "mobilenet_v3_small": 6}[name]
    else:
        assert len(dropped) == sum(settings["depths"])
        assert dropped[-1] == 0.2


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (8, 1)])
def test_a_depthwise_convolution_that_is_slow_in_bf16_computes_in_fp32(kernel, stride):
    """To the last bit, so not with factors that were rounded; what comes out is as everywhere in the network."""
    torch.manual_seed(0)
    module, x = depthwise_conv(4, kernel, stride, kernel // 2), torch.randn(2, 4, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.bfloat16
    exact = F.conv2d(x.float(), module.weight, None, stride, kernel // 2, groups=4)
    assert torch.equal(found, exact.bfloat16()) == ((kernel, stride) != (3, 1))


@pytest.mark.slow
def test_every_depthwise_convolution_of_the_zoo_is_made_as_one():
    others = set()
    for name in option_names("model"):
        with torch.device("meta"):
            model = objects.network(objects.plain(composed(f"model={name}").model), num_classes=10, in_channels=3)
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
                fast = (*module.kernel_size, *module.stride) == (3, 3, 1, 1)
                if not (fast or isinstance(module, Float32Conv2d)):
                    others.add(name)
    assert not others
