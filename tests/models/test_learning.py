"""Every family of networks learns: after one epoch on generated images the test loss is well below that of a guess."""

import math

import pytest

from tests.support.marks import slow_except
from tests.support.networks import FAMILIES, SMALL_FAMILIES

# An epoch of these takes minutes; that they learn shows in a few images, seen again and again.
LARGE = ["alexnet_2012", "vgg11", "googlenet", "inception_v2", "inception_resnet_v1", "resnext29_32x4d", "sknet26"]
LARGE += ["shake_shake26_2x32d", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"]

BY_HEART = {
    # Its initial weights leave a plateau, which large steps do not find a way out of.
    "alexnet_2012": (
        "optimizer.lr=3e-5",
        "scheduler=constant",
        "scheduler.warmup_epochs=10",
        "trainer.max_epochs=60",
        "trainer.batch_size=10",
        "augmentation.crop.padding=0",
    ),
    "inception_resnet_v1": ("trainer.max_epochs=10",),
    **dict.fromkeys(
        ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"),
        ("optimizer.lr=2e-3", "scheduler=cosine", "trainer.max_epochs=40"),
    ),
    "shake_shake26_2x32d": ("optimizer.lr=1e-3", "trainer.max_epochs=25"),
}

# Networks without normalisation begin slowly, and want more steps or shorter ones.
SETTINGS = {
    "lenet5": ("dataset.train_size=6000",),
    "alexnet": ("dataset.train_size=3000", "optimizer.lr=3e-4"),
}


@pytest.mark.parametrize("name", slow_except(["lenet5"], [name for name in SMALL_FAMILIES if name not in LARGE]))
def test_one_epoch_teaches(train, name):
    """Plain shapes on a plain ground, which a network can learn in a minute."""
    run = train(
        f"model={name}",
        *FAMILIES[name],
        "optimizer=adamw",
        "optimizer.lr=2e-3",
        "scheduler=cosine",
        "trainer.max_epochs=1",
        "trainer.batch_size=10",
        "dataset.clutter=0",
        "dataset.val_size=0",
        "dataset.train_size=1500",
        "dataset.test_size=500",
        *SETTINGS.get(name, ()),
    )
    assert run.result["test_loss"] < 0.75 * math.log(10)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_few_images_are_learned_by_heart(train, name):
    """The loss on ten images falls far below that of a guess, dropout and batch statistics as in training."""
    run = train(
        f"model={name}",
        *FAMILIES[name],
        "optimizer=adamw",
        "optimizer.lr=3e-4",
        "trainer.max_epochs=15",
        "trainer.batch_size=5",
        "dataset.clutter=0",
        "dataset.val_size=0",
        "dataset.train_size=10",
        "dataset.test_size=10",
        *BY_HEART.get(name, ()),
    )
    assert run.metrics[-1]["train_loss"] < 0.75 * math.log(10)
