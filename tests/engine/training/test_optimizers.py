"""The first two steps of every optimizer, beside the paper's equations worked out in plain numbers."""

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import hubconf
from engine.build import objects
from engine.training.optimizers import load_optimizer_state
from engine.training.optimizers.muon import as_matrix
from tests.support.runs import ROOT, composed, option_names

WEIGHT, GRADIENTS, LR, DECAY = 2.0, (0.5, -1.0), 0.01, 0.1


def sgd(w: float) -> float:
    """Sutskever et al. 2013 as torch writes it: m = 0.9 m + g; the step is g + 0.9 m."""
    m = 0.0
    for g in GRADIENTS:
        g += DECAY * w
        m = 0.9 * m + g if m else g
        w -= LR * (g + 0.9 * m)
    return w


def momentum(w: float) -> float:
    """Polyak 1964 as torch writes it: m = 0.9 m + g is the step."""
    m = 0.0
    for g in GRADIENTS:
        m = 0.9 * m + g + DECAY * w
        w -= LR * m
    return w


def adam(w: float, *, decoupled: bool = False) -> float:
    """Kingma and Ba 2014, algorithm 1; decoupled: Loshchilov and Hutter 2017, algorithm 2."""
    m = v = 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        if decoupled:
            w -= LR * DECAY * w
        else:
            g += DECAY * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= LR * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def nadam(w: float) -> float:
    """Dozat 2016, with the momentum schedule mu_t = b1 (1 - 0.96^(0.004 t) / 2)."""
    m = v = 0.0
    product = 1.0
    for t, g in enumerate(GRADIENTS, start=1):
        g += DECAY * w
        mu, following = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * s)) for s in (t, t + 1))
        product *= mu
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        direction = (1 - mu) * g / (1 - product) + following * m / (1 - product * following)
        w -= LR * direction / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def radam(w: float) -> float:
    """Liu et al. 2019, algorithm 2: in its first five steps the variance is not yet relied on."""
    m = 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        g += DECAY * w
        m = 0.9 * m + 0.1 * g
        w -= LR * m / (1 - 0.9**t)
    return w


def adagrad(w: float) -> float:
    """Duchi et al. 2011."""
    total = 0.0
    for g in GRADIENTS:
        g += DECAY * w
        total += g * g
        w -= LR * g / (math.sqrt(total) + 1e-10)
    return w


def rmsprop(w: float) -> float:
    """TensorFlow's, with Inception's decay 0.9, eps 1 and momentum 0.9."""
    m, v = 0.0, 1.0
    for g in GRADIENTS:
        g += DECAY * w
        v = 0.9 * v + 0.1 * g * g
        m = 0.9 * m + LR * g / math.sqrt(v + 1.0)
        w -= m
    return w


def rmsprop_torch(w: float) -> float:
    """Tieleman and Hinton 2012."""
    v = 0.0
    for g in GRADIENTS:
        g += DECAY * w
        v = 0.99 * v + 0.01 * g * g
        w -= LR * g / (math.sqrt(v) + 1e-8)
    return w


def lion(w: float) -> float:
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for g in GRADIENTS:
        w -= LR * (math.copysign(1, 0.9 * m + 0.1 * g) + DECAY * w)
        m = 0.99 * m + 0.01 * g
    return w


def heavy_ball(w: float) -> float:
    """Polyak's momentum, with the learning rate inside: what LARS does where it has no ratio."""
    m = 0.0
    for g in GRADIENTS:
        m = 0.9 * m + LR * (g + DECAY * w)
        w -= m
    return w


def lars_layer(w: list[float], gradients: list[list[float]]) -> list[float]:
    """You et al. 2017, algorithm 1, with eq. 6's trust coefficient of 0.02."""
    m = [0.0] * len(w)
    for g in gradients:
        ratio = 0.02 * math.hypot(*w) / (math.hypot(*g) + DECAY * math.hypot(*w))
        m = [0.9 * mi + LR * ratio * (gi + DECAY * wi) for mi, gi, wi in zip(m, g, w, strict=True)]
        w = [wi - mi for wi, mi in zip(w, m, strict=True)]
    return w


def lamb_layer(w: list[float], gradients: list[list[float]]) -> list[float]:
    """You et al. 2019, algorithm 2, with eps 1e-6."""
    m = v = [0.0] * len(w)
    for t, g in enumerate(gradients, start=1):
        m = [0.9 * mi + 0.1 * gi for mi, gi in zip(m, g, strict=True)]
        v = [0.999 * vi + 0.001 * gi * gi for vi, gi in zip(v, g, strict=True)]
        r = [mi / (1 - 0.9**t) / (math.sqrt(vi / (1 - 0.999**t)) + 1e-6) for mi, vi in zip(m, v, strict=True)]
        u = [ri + DECAY * wi for ri, wi in zip(r, w, strict=True)]
        w = [wi - LR * math.hypot(*w) / math.hypot(*u) * ui for wi, ui in zip(w, u, strict=True)]
    return w


EQUATIONS: dict[str, Callable[[float], float]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "adamw": lambda w: adam(w, decoupled=True),
    "nadam": nadam,
    "radam": radam,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "rmsprop_torch": rmsprop_torch,
    "lion": lion,
    "lars": lambda w: lars_layer([w], [[g] for g in GRADIENTS])[0],
    "lamb": lambda w: lamb_layer([w], [[g] for g in GRADIENTS])[0],
    "sgd_lookahead": sgd,  # its first step back is the fifth
    "muon": lambda w: adam(w, decoupled=True),  # an only layer is the first and the last
}


def optimizer_of(name: str, model: nn.Module, *overrides: str) -> torch.optim.Optimizer:
    """The optimizer that a command with this learning rate and weight decay would get."""
    rates = (f"optimizer.lr={LR}", f"regularization.weight_decay.rate={DECAY}")
    return objects.optimizer(composed(f"optimizer={name}", *rates, *overrides), model)


def one_weight() -> nn.Linear:
    """A network of a single number."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, WEIGHT)
    return layer


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_two_steps_by_hand(name):
    layer = one_weight()
    optimizer = optimizer_of(name, layer)
    for gradient in GRADIENTS:
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
    change = layer.weight.item() - WEIGHT
    assert change == pytest.approx(EQUATIONS[name](WEIGHT) - WEIGHT, rel=1e-6)
    assert abs(change) > 1e-5


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_loss_scaling_changes_nothing(name):
    """The gradient is divided by the scale, and a step whose gradient overflowed is as if it had not been."""
    layer = one_weight()
    optimizer, scaler = optimizer_of(name, layer), torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient in (GRADIENTS[0], math.inf, GRADIENTS[1]):
        scaler.scale((layer.weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert layer.weight.item() - WEIGHT == pytest.approx(EQUATIONS[name](WEIGHT) - WEIGHT, rel=1e-6)


def three_layers() -> nn.Sequential:
    """A network whose middle layer is a hidden one, in float64, with gradients."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)]
    model = nn.Sequential(layers[0], layers[1], nn.Flatten(), layers[2]).double()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", sorted(set(EQUATIONS) - {"muon"}))
def test_a_layer_is_trained_as_if_it_were_alone(name):
    """Though all tensors are updated at once."""
    together, alone = three_layers(), three_layers()
    optimizers = [optimizer_of(name, part) for part in (together, alone[0], alone[1], alone[3])]
    for optimizer in optimizers * 2:
        optimizer.step()
    for first, second in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_what_has_no_gradient_is_left_alone(name):
    model, before = three_layers(), three_layers()
    for layer in (model[1], model[3]):
        layer.zero_grad()
    optimizer_of(name, model).step()
    assert not torch.equal(model[0].weight, before[0].weight)
    for first, second in zip(model[1:].parameters(), before[1:].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "sgd_lookahead"])
def test_one_kernel_does_what_many_do(name):
    """With gradients as they come out of a network in channels_last: the kernel trusts that they lie as the weights."""
    models = []
    for fused in ("true", "false"):
        config = composed(f"optimizer={name}", f"optimizer.fused={fused}", "model=resnet20", "model.depths=[1,1,1]")
        torch.manual_seed(0)
        model = objects.network(objects.plain(config.model), num_classes=10, in_channels=3)
        models.append(model.to(memory_format=torch.channels_last))
        optimizer = objects.optimizer(config, model)
        for _ in range(2):
            images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
            model(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_the_sign_of_two_gradients_is_that_of_their_mean():
    """Lion's first two directions differ here: the weight goes down, then up."""
    assert lion(WEIGHT) == pytest.approx((WEIGHT - LR * (1 + DECAY * WEIGHT)) * (1 - LR * DECAY) + LR)


# LARS and LAMB


@pytest.mark.parametrize(
    ("name", "layer_by_hand", "bias_by_hand"),
    [("lars", lars_layer, heavy_ball), ("lamb", lamb_layer, lambda w: adam(w, decoupled=True))],
)
def test_the_ratio_is_that_of_a_layer_and_spares_biases(name, layer_by_hand, bias_by_hand):
    layer, gradients = nn.Linear(2, 1, dtype=torch.float64), [[0.5, -1.0], [-2.0, 0.25]]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.bias.fill_(WEIGHT)
    optimizer = optimizer_of(name, layer, "regularization.weight_decay.norms_and_biases=true")
    for of_weight, of_bias in zip(gradients, GRADIENTS, strict=True):
        layer.weight.grad = torch.tensor([of_weight], dtype=torch.float64)
        layer.bias.grad = torch.tensor([of_bias], dtype=torch.float64)
        optimizer.step()
    change = [after - before for after, before in zip(layer.weight[0].tolist(), (3.0, 4.0), strict=True)]
    by_hand = [after - before for after, before in zip(layer_by_hand([3.0, 4.0], gradients), (3, 4), strict=True)]
    assert change == pytest.approx(by_hand, rel=1e-6)
    # LAMB's eps is not Adam's
    assert layer.bias.item() - WEIGHT == pytest.approx(bias_by_hand(WEIGHT) - WEIGHT, rel=1e-5)


@pytest.mark.parametrize(("name", "step"), [("lars", LR * 0.5), ("lamb", LR * 0.5 / (0.5 + 1e-6))])
def test_a_layer_of_zeros_leaves_zero_without_a_ratio(name, step):
    layer = one_weight()
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.full_like(layer.weight, 0.5)
    optimizer_of(name, layer).step()
    assert layer.weight.item() == pytest.approx(-step, rel=1e-9)


@pytest.mark.parametrize(("name", "expected"), [("lars", WEIGHT * (1 - LR * DECAY)), ("lamb", WEIGHT * (1 - LR))])
def test_without_a_gradient_in_it_a_layer_only_decays(name, expected):
    """LAMB's update is then the decay alone, as long as the learning rate says."""
    layer = one_weight()
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer_of(name, layer).step()
    assert layer.weight.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_no_update_at_all_is_no_division_by_zero(name):
    layer = one_weight()
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer_of(name, layer, "regularization.weight_decay.rate=0").step()
    assert layer.weight.item() == WEIGHT


# Lookahead


def test_every_second_step_goes_back():
    """With k = 2: momentum goes on, the weight is put back to 0.8 of the way, twice."""
    layer = one_weight()
    optimizer = optimizer_of("sgd_lookahead", layer, "optimizer.k=2")
    fast = slow = WEIGHT
    m, seen, by_hand = 0.0, [], []
    for step, gradient in enumerate([0.5, -1.0, 2.0, 0.25], start=1):
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
        seen.append(layer.weight.item())
        g = gradient + DECAY * fast
        m = 0.9 * m + g
        fast -= LR * (g + 0.9 * m)
        if step % 2 == 0:
            fast = slow = slow + 0.8 * (fast - slow)
        by_hand.append(fast)
    assert seen == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("fused", ["true", "false"])
def test_a_step_that_overflows_does_not_bring_the_step_back_nearer(fused):
    """Which in fp16 a fused kernel is told, and nobody else."""
    layer = one_weight()
    optimizer = optimizer_of("sgd_lookahead", layer, "optimizer.k=2", f"optimizer.fused={fused}")
    other_layer = one_weight()
    other = optimizer_of("sgd_lookahead", other_layer, "optimizer.k=2")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient in (0.5, math.inf, -1.0, 2.0):
        scaler.scale((layer.weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if math.isfinite(gradient):
            other_layer.weight.grad = torch.full_like(layer.weight, gradient)
            other.step()
        assert layer.weight.item() == pytest.approx(other_layer.weight.item(), rel=1e-12)


# Muon


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024: five times X <- a X + b X X' X + c X X' X X' X, from X = M / |M|, in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def test_muon_by_hand():
    """On diagonal matrices the iteration is that of a polynomial in each number, which begins with 3 / 5 and 4 / 5."""
    model = nn.Sequential(*[nn.Linear(2, outputs, bias=False) for outputs in (2, 2, 3)])
    nn.init.eye_(model[1].weight)
    optimizer = optimizer_of("muon", model)
    w, m = [1.0, 1.0], [0.0, 0.0]
    for g in ([3.0, 4.0], [-1.0, 2.0]):
        model[1].weight.grad = torch.diag(torch.tensor(g))
        optimizer.step()
        m = [0.95 * mi + 0.05 * gi for mi, gi in zip(m, g, strict=True)]
        ahead = [0.05 * gi + 0.95 * mi for mi, gi in zip(m, g, strict=True)]
        for i, x in enumerate(ahead):
            x /= math.hypot(*ahead)
            for _ in range(5):
                x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
            w[i] -= LR * (0.2 * math.sqrt(2) * x + DECAY * w[i])
    change = [after - 1 for after in model[1].weight.diagonal().tolist()]
    assert change == pytest.approx([after - 1 for after in w], rel=0.05)  # torch iterates in bfloat16


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_convolution_as_a_matrix(memory_format):
    model, before = three_layers().to(memory_format=memory_format), three_layers()
    optimizer_of("muon", model, "regularization.weight_decay.rate=0").step()
    change = (model[1].weight - before[1].weight).detach().flatten(1).numpy()
    by_hand = -LR * 0.2 * math.sqrt(4 * 3 * 3) * newton_schulz(before[1].weight.grad.flatten(1).numpy())
    assert np.linalg.norm(change - by_hand) < 0.05 * np.linalg.norm(by_hand)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7)])
def test_the_matrix_is_the_weight_itself(memory_format, kernel):
    weight = nn.Conv2d(4, 6, kernel).to(memory_format=memory_format).weight.detach()
    matrix = as_matrix(weight, like=weight)
    assert matrix.shape == (6, 4 * kernel[0] * kernel[1])
    assert matrix.data_ptr() == weight.data_ptr()
    matrix.zero_()
    assert not weight.any()


def test_muon_has_the_hidden_matrices_and_adamw_the_rest():
    """Depthwise convolutions, and what has one output or one input, have no matrix to make orthogonal."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 1, 1),
        nn.Conv2d(1, 8, 1),
        nn.Linear(8, 8),
        nn.Linear(8, 10),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = optimizer_of("muon", model)
    assert [names[weight] for weight, _ in optimizer.matrices] == ["2.weight", "3.weight", "7.weight"]
    held = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(names.values())
    decayed = {names[p] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name in names.values() if name.endswith("weight")} - {"1.weight"}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_heads_of_a_network_are_not_hidden(name):
    """Those that help in training as little as the last one."""
    heads = "auxiliary_heads" if name == "googlenet" else "auxiliary_head"
    with torch.device("meta"):
        model = hubconf.create(name, num_classes=10, **{heads: True})
        optimizer = optimizer_of("muon", model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    hidden = {names[weight] for weight, _ in optimizer.matrices}
    ends = {name for name, parameter in model.named_parameters() if parameter.shape[:1] == (10,) and parameter.ndim > 1}
    assert len(ends) > 1
    assert not hidden & ends
    assert len(hidden) > 50


def test_a_schedule_reaches_muon_and_adamw():
    model, before = three_layers(), three_layers()
    optimizer = optimizer_of("muon", model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for first, second in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(first, second)


# The learning rate and the batch


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("trainer.batch_size=512",), LR),
        (("trainer.batch_size=512", "trainer.lr_scaling=linear"), 4 * LR),
        (("trainer.batch_size=512", "trainer.lr_scaling=sqrt"), 2 * LR),
        (("trainer.batch_size=32", "trainer.lr_scaling=linear", "trainer.lr_batch_size=256"), LR / 8),
        (("trainer.lr_scaling=linear",), LR),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_the_learning_rate_grows_with_the_batch_on_request(name, overrides, expected):
    optimizer = optimizer_of(name, three_layers(), *overrides)
    for group in optimizer.param_groups:
        assert group["lr"] == group["initial_lr"] == pytest.approx(expected)


def test_the_effective_learning_rate_is_said_where_it_differs(train, caplog):
    caplog.set_level("INFO", "cifar")
    run = train("trainer.max_epochs=1", "trainer.lr_scaling=linear", "scheduler=constant")
    assert "learning rate 0.025: optimizer.lr=0.1, scaled with the batch" in caplog.messages
    assert run.result["effective_lr"] == run.metrics[0]["learning_rate"] == pytest.approx(0.025)
    caplog.clear()
    train("trainer.max_epochs=1")
    assert caplog.messages
    assert not [message for message in caplog.messages if "optimizer.lr" in message]


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "lion"])
def test_what_is_remembered_does_not_depend_on_the_memory_format(name):
    """A step behind a resume with the other order of the weights' numbers is the step that would have been."""
    stays, other = three_layers().to(memory_format=torch.channels_last), three_layers()
    first = optimizer_of(name, stays)
    first.step()
    other.load_state_dict(stays.state_dict())
    behind = optimizer_of(name, other)
    load_optimizer_state(behind, copy.deepcopy(first.state_dict()))
    for model in (stays, other):
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.grad = torch.empty_like(parameter).copy_(noise)
    first.step()
    behind.step()
    for mine, theirs in zip(stays.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-4)  # Muon iterates in bfloat16


# The page on optimizers


@pytest.mark.slow
def test_the_page_has_every_optimizer_with_its_rate_and_keys():
    page = (ROOT / "docs" / "optimizers.md").read_text()
    rows = {name: cells for name, *cells in re.findall(r"^\| `(\w+)` \| ([\d.]+) \| (.*?) \|", page, re.M)}
    assert sorted(rows) == option_names("optimizer")
    for name, (lr, keys) in rows.items():
        options = objects.plain(composed(f"optimizer={name}", "regularization=[]").optimizer)
        assert options.pop("lr") == float(lr)
        assert re.findall(r"`(\w+)`", keys) == [key for key in options if key != "_target_"]
