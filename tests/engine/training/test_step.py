"""One optimizer update, against what the same update is by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.build import autotune, objects
from engine.device.amp import choose_precision
from engine.training.sam import SAM
from engine.training.state import TrainState
from engine.training.step import TrainStep, scale_learning_rate
from tests.support.runs import composed

CPU = torch.device("cpu")


def network() -> nn.Module:
    """A small network without batch normalisation, whose gradient does not depend on how a batch is cut."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))


def fresh_state(model: nn.Module, precision: str = "fp32", lr: float = 0.1) -> TrainState:
    """A state at step 0 with plain gradient descent."""
    return TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        scaler=choose_precision(precision, CPU).scaler(),
        totals=torch.zeros(3),
        finite_steps=torch.tensor(0),
    )


def train_step(
    loss=None,
    precision: str = "fp32",
    gradient_accumulation: int = 1,
    sam=None,
    max_grad_norm: float = 0,
    max_weight_norm: float = 0,
    skip_nonfinite: bool = False,
) -> TrainStep:
    """A step with only what a test is about."""
    return TrainStep(
        loss=loss or nn.CrossEntropyLoss(),
        precision=choose_precision(precision, CPU),
        gradient_accumulation=gradient_accumulation,
        sam=sam,
        max_grad_norm=max_grad_norm,
        max_weight_norm=max_weight_norm,
        skip_nonfinite=skip_nonfinite,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 3, 32, 32, generator=generator), torch.arange(10)


def flat(model: nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_step_is_gradient_descent_on_the_mean_loss(batch):
    images, labels = batch
    ours, theirs = network(), network()
    train_step()(fresh_state(ours), images, labels)
    F.cross_entropy(theirs(images), labels).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-7)


@pytest.mark.parametrize("gradient_accumulation", [2, 3, 10])
def test_parts_of_a_batch_add_up_to_the_batch(batch, gradient_accumulation):
    """Also where they are of unequal size, as 10 in 3 are."""
    whole, parts = network(), network()
    state = fresh_state(parts)
    train_step()(fresh_state(whole), *batch)
    train_step(gradient_accumulation=gradient_accumulation)(state, *batch)
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-5, atol=1e-7)
    assert state.step == 1


@pytest.mark.parametrize(("images", "sizes"), [(10, [3, 3, 2, 2]), (8, [2, 2, 2, 2]), (5, [3, 2]), (3, [3]), (1, [1])])
def test_no_part_is_a_single_image(batch, images, sizes):
    """Over one value batch normalisation has no meaning, and torch refuses it: as a batch may be the epoch's rest."""
    seen, model = [], network()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    train_step(gradient_accumulation=4)(fresh_state(model), batch[0][:images], batch[1][:images])
    assert seen == sizes


def test_the_totals_are_those_of_the_batch(batch):
    images, labels = batch
    model = network()
    with torch.no_grad():
        logits = model(images)
    state = fresh_state(model, lr=1e-9)
    step = train_step(gradient_accumulation=3)
    step(state, images, labels)
    step(state, images[:4], labels[:4])
    loss, accuracy, count, finite_steps = state.read_and_reset_totals()
    losses = F.cross_entropy(logits, labels, reduction="none")
    hits = (logits.argmax(1) == labels).float()
    assert (count, finite_steps) == (14, 2)
    assert loss == pytest.approx((losses.sum() + losses[:4].sum()).item() / 14, rel=1e-5)
    assert accuracy == pytest.approx((hits.sum() + hits[:4].sum()).item() / 14)
    assert state.totals.tolist() == [0, 0, 0]
    assert state.finite_steps == 0


def test_long_gradients_are_clipped_and_short_ones_left(batch):
    before = flat(network())
    for max_norm, expected in [(0.01, 0.01), (1e6, None)]:
        model, free = network(), network()
        train_step(max_grad_norm=max_norm)(fresh_state(model, lr=1.0), *batch)
        train_step()(fresh_state(free, lr=1.0), *batch)
        length = (flat(model) - before).norm().item()
        assert length == pytest.approx(expected or (flat(free) - before).norm().item(), rel=1e-3)


def test_targets_may_be_probabilities(batch):
    images, labels = batch
    by_index, by_probability = network(), network()
    first, second = fresh_state(by_index), fresh_state(by_probability)
    train_step()(first, images, labels)
    train_step()(second, images, F.one_hot(labels, 10).float())
    torch.testing.assert_close(flat(by_index), flat(by_probability))
    assert first.totals[1] == second.totals[1]


def test_bf16_trains_close_to_fp32(batch):
    exact, rounded = network(), network()
    train_step()(fresh_state(exact), *batch)
    train_step(precision="bf16")(fresh_state(rounded), *batch)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.parameters())
    change, difference = flat(exact) - flat(network()), flat(rounded) - flat(exact)
    assert 0 < difference.norm() < 0.05 * change.norm()


def test_the_learning_rate_is_a_factor_on_the_optimizers_own():
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.01}]
    optimizer = torch.optim.SGD([{**group, "initial_lr": group["lr"]} for group in groups])
    for factor in (0.5, 0.1):
        scale_learning_rate(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])


# Regularization reaches its owner


def optimizer_of(*overrides: str):
    """The optimizer that a command would get for resnet20, and the network."""
    config = composed("model=resnet20", *overrides)
    model = objects.network(objects.plain(config.model), num_classes=10, in_channels=3)
    return objects.optimizer(config, model), model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_norms_and_biases(optimizer):
    built, model = optimizer_of(f"optimizer={optimizer}", "regularization.weight_decay.rate=0.01")
    rates = {id(parameter): group["weight_decay"] for group in built.param_groups for parameter in group["params"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decayed = name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear))
            assert rates.pop(id(parameter)) == (0.01 if decayed else 0.0)
    assert not rates


def test_weight_decay_of_everything():
    built, _ = optimizer_of("regularization.weight_decay.norms_and_biases=true")
    assert {group["weight_decay"] for group in built.param_groups} == {1e-4}


def test_without_regularization_nothing_decays():
    built, _ = optimizer_of("optimizer=adamw", "regularization=[]")
    assert {group["weight_decay"] for group in built.param_groups} == {0.0}


def test_label_smoothing_reaches_the_loss():
    config = composed("regularization=[label_smoothing]", "regularization.label_smoothing.smoothing=0.2")
    logits, labels = torch.randn(4, 10), torch.arange(4)
    smooth = 0.8 * F.one_hot(labels, 10) + 0.2 / 10
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    backend = autotune.possible_backends(composed("trainer.device=cpu"))[0]
    torch.testing.assert_close(objects.train_step(config, backend).loss(logits, labels), expected)


def test_gradient_clipping_reaches_the_step():
    backend = autotune.possible_backends(composed("trainer.device=cpu"))[0]
    for overrides, expected in [((), 0), (("regularization=[gradient_clipping]",), 1.0)]:
        assert objects.train_step(composed(*overrides), backend).max_grad_norm == expected


def test_what_is_asked_of_a_step_reaches_it():
    words = ("regularization=[sam,max_norm]", "regularization.sam.radius=0.2", "regularization.sam.adaptive=true")
    config = composed(*words, "trainer.gradient_accumulation=3", "trainer.on_nonfinite=skip", "trainer.device=cpu")
    step = objects.train_step(config, autotune.possible_backends(config)[0])
    assert (step.sam.radius, step.sam.adaptive, step.gradient_accumulation, step.skip_nonfinite) == (0.2, True, 3, True)
    assert step.max_weight_norm == config.regularization.max_norm.limit > 0


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnext29_32x4d"])
def test_dropout_reaches_the_network(name):
    config = composed(f"model={name}", "regularization=[dropout]", "regularization.dropout.rate=0.9")
    model = objects.network(objects.plain(config.model), num_classes=10, in_channels=3)
    images = torch.randn(2, 3, 32, 32)
    for module in model.modules():  # batch statistics would differ between passes of their own accord
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("gradient_accumulation", [1, 3])
def test_sam_takes_the_gradient_uphill(batch, adaptive, gradient_accumulation):
    """Beside equation 2 worked out tensor by tensor; adaptive: equation 11 of ASAM, and its code's constant."""
    images, labels = batch
    ours, theirs = network(), network()
    sam = SAM(radius=0.1, adaptive=adaptive, eta=0.2)
    train_step(sam=sam, gradient_accumulation=gradient_accumulation)(fresh_state(ours), images, labels)

    F.cross_entropy(theirs(images), labels).backward()
    own = [parameter.detach().clone() for parameter in theirs.parameters()]
    units = [
        weight.abs() + 0.2 if adaptive and "bias" not in name else torch.ones_like(weight)
        for (name, _), weight in zip(theirs.named_parameters(), own, strict=True)
    ]
    scaled = [unit * parameter.grad for unit, parameter in zip(units, theirs.parameters(), strict=True)]
    length = torch.cat([part.flatten() for part in scaled]).norm()
    with torch.no_grad():
        for parameter, unit, part in zip(theirs.parameters(), units, scaled, strict=True):
            parameter += 0.1 * unit * part / length
    theirs.zero_grad()
    F.cross_entropy(theirs(images), labels).backward()
    with torch.no_grad():
        for parameter, before in zip(theirs.parameters(), own, strict=True):
            parameter.copy_(before - 0.1 * parameter.grad)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-5, atol=1e-7)
    plain = network()
    train_step()(fresh_state(plain), images, labels)
    assert not torch.allclose(flat(ours), flat(plain), rtol=1e-3, atol=1e-5)


def test_sam_counts_a_batch_once(batch):
    """In the totals and in batch norm's statistics, which are those of the weights themselves."""
    images, labels = batch
    states = []
    for sam in (None, SAM(radius=0.5, adaptive=False, eta=0.0)):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 10)
        )
        states.append(fresh_state(model))
        train_step(sam=sam)(states[-1], images, labels)
    assert states[0].read_and_reset_totals() == states[1].read_and_reset_totals()
    for first, second in zip(states[0].model.buffers(), states[1].model.buffers(), strict=True):
        assert torch.equal(first, second)


def test_sam_survives_gradients_that_overflow():
    """As fp16 with its loss scale has them now and then: the step is lost, the weights and the statistics are not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].weight.grad = torch.full_like(model[0].weight, float("inf"))
    model[1].weight.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with SAM(radius=0.1, adaptive=False, eta=0.0).perturbed_weights(model):
        assert model(torch.randn(2, 3, 8, 8)).isnan().any()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_max_norm_limits_the_weights_into_a_unit(batch):
    """Longer ones are scaled down to the limit, shorter ones and biases are left alone."""
    images, labels = batch
    model, reference = network(), network()
    for net in (model, reference):
        with torch.no_grad():
            net[3].weight[0] *= 50
            net[3].bias += 9
    train_step()(fresh_state(reference), images, labels)
    train_step(max_weight_norm=2.0)(fresh_state(model), images, labels)
    lengths = reference[3].weight.norm(dim=1)
    assert lengths[0] > 2 > lengths[1:].max()
    torch.testing.assert_close(model[3].weight[0], reference[3].weight[0] * (2 / lengths[0]))
    assert torch.equal(model[3].weight[1:], reference[3].weight[1:])
    assert torch.equal(model[3].bias, reference[3].bias)
    assert torch.equal(model[0].weight, reference[0].weight)
