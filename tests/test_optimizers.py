"""The first two steps of every optimizer, beside the paper's equations worked out in plain numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from conftest import composed, option_names
from torch import nn

from engine import build

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
}


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_two_steps_by_hand(name):
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, WEIGHT)
    config = composed(f"optimizer={name}", f"optimizer.lr={LR}", f"regularization.weight_decay.rate={DECAY}")
    optimizer = build.optimizer(config, layer)
    for gradient in GRADIENTS:
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
    assert layer.weight.item() == pytest.approx(EQUATIONS[name](WEIGHT), rel=1e-9)
    assert abs(layer.weight.item() - WEIGHT) > 1e-4


def test_the_sign_of_two_gradients_is_that_of_their_mean():
    """Lion's first two directions differ here: the weight goes down, then up."""
    assert lion(WEIGHT) == pytest.approx((WEIGHT - LR * (1 + DECAY * WEIGHT)) * (1 - LR * DECAY) + LR)
