"""Every recipe of conf/recipe/: it composes, is accepted, builds, trains a step, and says what to expect of it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from data import cifar
from data.cifar import CIFAR10
from engine.build import objects
from engine.config import choices
from engine.config.check import check
from engine.config.choices import chosen_options
from engine.config.command import initialized
from engine.config.identity import difference, leaves
from engine.config.overrides import parse
from engine.config.schema import read_keys
from engine.recipes import Recipe, as_markdown, recipes, results, verdict
from engine.sweep.leaderboard import Run
from tests.support.archives import archive_bytes, as_published
from tests.support.marks import slow_except
from tests.support.runs import CONF, ROOT, composed, option_names
from tests.support.steps import step_of


@cache
def every_recipe() -> dict[str, Recipe]:
    """The table of recipes by their names."""
    return {recipe.name: recipe for recipe in recipes()}


# One for any network, one for a network, one that inherits from others, one with its own sizes; to compose all is slow.
FEW = {"he2015", "lenet5_cifarzoo", "shake_shake26_2x64d_cifarzoo_cutout_mixup", "speedrun", "mobilenet_default"}
NAMES = slow_except(FEW, option_names("recipe"))

# What makes a network small enough to train a step in no time; the Inceptions, which have no such key, get GoogLeNet.
SMALL = {"depths": [1, 1, 1], "widths": [16, 16, 16], "cardinality": 2, "width": 32, "growth_rate": 4, "groups": 2}
SMALL_OF_CLASS = {
    "models.vgg.VGG": {"depths": [1, 1, 1, 1, 1]},
    "models.airbench.Airbench": {"widths": [8, 8, 8]},
    "models.mobilenet.MobileNetV1": {"width": 0.25},
    "models.mobilenet.MobileNetV2": {"width": 0.25},
    "models.mobilenet.MobileNetV3": {"width": 0.25},
}
INCEPTIONS = ("inception_v2", "inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2")


def composed_and_chosen(*overrides: str) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration and what a run says was chosen."""
    config = composed(*overrides, hydra=True)
    return config, chosen_options(without_hydra(config), config.hydra)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of what a run sees."""
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_accepted_and_trains_a_step(name):
    """With a small network of the same family."""
    with initialized(None):
        check("config", [parse(f"recipe={name}")])
    config, chosen = composed_and_chosen(f"recipe={name}")
    config = without_hydra(config)
    model = objects.plain(config.model)
    with torch.device("meta"):
        objects.network(model, num_classes=10, in_channels=3)
    config.trainer.device, config.trainer.batch_size = "cpu", 4
    if chosen["model"] in INCEPTIONS:
        config.model._target_, config.model.auxiliary_heads = "models.googlenet.GoogLeNet", False
        config.model.pop("auxiliary_head", None)
    small = SMALL | SMALL_OF_CLASS.get(config.model._target_, {})
    config.model.update({key: value for key, value in small.items() if key in config.model})
    assert step_of(config).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_composes_and_what_to_expect(name):
    """The table of recipes, read without Hydra, says the same; a figure has a source and the papers' protocol."""
    (config, chosen), recipe = composed_and_chosen(f"recipe={name}"), every_recipe()[name]
    assert list(config.regularization) == chosen["regularization"], "a value for a regularizer that is not chosen"
    attention = [option for place, option in config.hydra.runtime.choices.items() if place.startswith("attention@")]
    if recipe.network == "any":
        assert chosen["model"] == "resnet20"
    else:
        assert recipe.network in (chosen["model"], " + ".join([chosen["model"], *attention]))
    assert recipe.epochs == config.trainer.max_epochs
    assert recipe.source == (config.expected.source or "a guess")
    for shown, goal in ((recipe.cifar10, config.expected.cifar10), (recipe.cifar100, config.expected.cifar100)):
        assert shown == ("-" if goal.test_accuracy is None else f"{goal.test_accuracy:.2f} +- {goal.tolerance:.2f}")

    assert (config.expected.source is None) == (config.expected.result is None)
    goals = {dataset: config.expected[dataset].test_accuracy for dataset in ("cifar10", "cifar100")}
    if any(goals.values()):
        assert goals[chosen["dataset"]]
        assert config.expected.source
        assert config.dataset.val_size == 0
        assert config.regularization.weight_decay.norms_and_biases


@pytest.mark.parametrize("name", option_names("recipe"))
def test_a_recipe_names_options_and_keys_that_there_are(name):
    """Read without Hydra; that they go together is what composing it tells."""
    content = yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text())
    for default in content.pop("defaults"):
        for group, options in default.items() if isinstance(default, dict) else [("recipe", default)]:
            directory = CONF / group.removeprefix("override ").strip("/").partition("@")[0]
            for option in options if isinstance(options, list) else [options]:
                assert (directory / f"{option}.yaml").is_file(), f"{group}: {option}"
    for key, _ in leaves(content):
        assert key in every_key(), key


@cache
def every_key() -> set[str]:
    """The keys of config.yaml and of all options, by their dotted names."""
    keys = {".".join(path) for path, _ in read_keys((CONF / "config.yaml").read_text())}
    for file in CONF.glob("*/*.yaml"):
        text = file.read_text()
        prefix = () if text.startswith("# @package _global_") else (file.parent.name,)
        keys |= {".".join((*prefix, *path)) for path, _ in read_keys(text)} if file.parent.name != "recipe" else set()
    return keys


def test_the_command_line_wins():
    config, chosen = composed_and_chosen(
        "recipe=wrn28_10_devries2017_cutout",
        "trainer.max_epochs=10",
        "model=resnet56",
        "scheduler=htd",
        "regularization=[weight_decay,mixup]",
        "dataset=cifar100",
    )
    assert config.trainer.max_epochs == 10
    assert config.model.depths == [9, 9, 9]
    assert (chosen["model"], chosen["scheduler"], chosen["dataset"]) == ("resnet56", "htd", "cifar100")
    assert chosen["regularization"] == ["weight_decay", "mixup"]
    assert config.regularization.weight_decay.rate == 5e-4, "what stays keeps the recipe's value"
    assert "cutout" not in config.augmentation
    assert config.dataset.val_size == 0


def test_a_value_for_a_regularizer_that_is_left_out_does_nothing():
    config, chosen = composed_and_chosen("recipe=preresnet20_cifarzoo_mixup", "regularization=[cutout]")
    assert chosen["regularization"] == ["cutout"]
    assert config.mixing == {}
    assert "weight_decay" not in config.optimizer


@pytest.mark.parametrize(
    ("overrides", "accuracy", "changed"),
    [
        ((), 94.24, []),
        (("dataset=cifar100",), 72.96, []),
        (("seed=3", "trainer.device=cpu", "trainer.precision=fp32", "hydra.run.dir=x"), 94.24, []),
        (("trainer.max_epochs=10", "+attention@model.block_attention=se"), 94.24, None),
        (("dataset=shapes",), None, None),
    ],
)
def test_what_is_expected(overrides, accuracy, changed):
    _, chosen = composed_and_chosen("recipe=preresnet110_cifarzoo", *overrides)
    assert (chosen["expected"] or {"test_accuracy": None})["test_accuracy"] == accuracy
    if accuracy:
        assert chosen["expected"]["changed"] == (
            ["trainer.max_epochs", "attention@model.block_attention"] if changed is None else changed
        )


def test_nothing_is_expected_without_a_recipe_or_a_figure():
    for overrides in ([], ["recipe=googlenet_default"], ["recipe=cifarzoo"]):
        assert composed_and_chosen(*overrides)[1]["expected"] is None


def put_small_cifar10(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images in CIFAR-10's own files, taken for the published ones."""
    content = archive_bytes(CIFAR10)
    monkeypatch.setattr(cifar, "CIFAR10", as_published(CIFAR10, content))
    (place / "cifar-10-python.tar.gz").write_bytes(content)


def test_a_run_is_compared_with_its_recipe(train, tmp_path, monkeypatch, caplog):
    """On ten images in CIFAR-10's own files, for two epochs; and as a run that is changed, with what was changed."""
    caplog.set_level("INFO")
    put_small_cifar10(tmp_path, monkeypatch)
    recipe = ("recipe=lenet5_cifarzoo", "dataset=cifar10", f"dataset.root={tmp_path}")
    figures = {"test_accuracy": 67.46, "tolerance": 1.0, "result": "best epoch on the test images, one run"}
    figures["source"] = "Li 2019, github.com/BIGBALLON/CIFAR-ZOO"

    run = train(*recipe)
    changed = ["model", "trainer.batch_size", "trainer.max_epochs"]
    assert run.result["recipe"] == "lenet5_cifarzoo"
    assert run.result["expected"] == {**figures, "changed": changed}
    assert f"no comparison with the recipe, which has another {', '.join(changed)}\n" in caplog.text
    assert "expected 67.46" not in caplog.text
    monkeypatch.setattr(choices, "HARMLESS", {*choices.HARMLESS, *changed})
    run = train(*recipe)
    assert run.result["expected"] == {**figures, "changed": []}
    said = rf"expected 67\.46 \+- 1\.00 %, got [\d.]+ % \({figures['source']}: {figures['result']}\)\n"
    assert re.search(said, caplog.text)

    # Going on composes the recipe again.
    run = train(
        *recipe, f"resume={run.directory}", "trainer.max_epochs=3", "resume_force=true", directory=run.directory.path
    )
    assert [record["epoch"] for record in run.metrics] == [1, 2, 3]
    assert run.result["expected"] == {**figures, "changed": []}


def test_a_word_on_the_expectation_does_not_keep_a_run_from_going_on():
    before = {"expected": {"source": "Li, 2019"}, "seed": 0}
    assert difference(before, {"expected": {"source": "Li 2019"}, "seed": 0}) is None
    assert difference(before, {**before, "seed": 1}) == "seed was 0 in this run so far and is 1 now"


@pytest.mark.slow
def test_a_mistake_in_a_recipe_of_ones_own(command, tmp_path):
    (tmp_path / "own" / "recipe").mkdir(parents=True)
    file = tmp_path / "own" / "recipe" / "mine.yaml"
    for wrong, said in (
        ("trainer: {max_epoch: 1}", "recipe=mine: it sets trainer.max_epoch, but there is no such key"),
        (
            "defaults: [speedrun]\nregularization: {label_smoothing: {rate: 1}}",
            "it sets regularization.label_smoothing.rate, but there is no such key",
        ),
        ("trainer: {max_epochs: 0}", "trainer.max_epochs=0: must be a whole number >= 1"),
        (
            "expected: {cifar10: {test_accuracy: 940}}",
            "expected.cifar10.test_accuracy=940: must be a number > 0, < 100",
        ),
    ):
        file.write_text(f"# @package _global_\n{wrong}\n")
        ended = command("train.py", "--config-dir", "own", "recipe=mine")
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert said in ended.stderr


# The documentation


def test_the_table_is_complete_and_current():
    assert sorted(every_recipe()) == option_names("recipe")
    documented = (ROOT / "docs" / "recipes.md").read_text()
    assert as_markdown() in documented, "docs/recipes.md is not what `python -m engine.recipes --markdown` prints"


@pytest.mark.slow
def test_the_table_is_printed_without_torch(command):
    ended = command("-m", "engine.recipes", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    for name in every_recipe():
        assert re.search(rf"^{name} +[\w +]+ +", ended.stdout, re.M), name
    ended = command("-c", "import engine.recipes, sys; assert 'torch' not in sys.modules", cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


# Results beside what was published


def run_of(accuracy: float, *, seed: int = 0, dataset: str = "cifar10", changed: tuple[str, ...] = (), **result) -> Run:
    """A finished run of a recipe that promises 92.1 +- 0.4 %."""
    expected = {"test_accuracy": 92.1, "tolerance": 0.4, "source": "Somebody 2016", "changed": list(changed)}
    found = {"status": "finished", "recipe": "mine", "dataset": dataset, "test_accuracy": accuracy, "seed": seed}
    return Run(Path("run"), {}, {}, frozenset(), found | {"expected": expected} | result)


def test_results_are_put_beside_what_was_published():
    runs = [run_of(0.92), run_of(0.918, seed=1), run_of(0.70, dataset="cifar100"), run_of(0.9, changed=("model",))]
    runs += [run_of(0.1, expected=None), run_of(0.1, status="interrupted")]
    titles, first, second, others = results(runs).splitlines()
    assert titles.startswith("recipe  data set  seeds")
    cells = [re.split(r" {2,}", line) for line in (first, second)]
    assert cells[0] == ["mine", "cifar10", "2", "91.90 +- 0.14", "92.10 +- 0.40", "-0.20", "reached", "Somebody 2016"]
    assert cells[1] == ["mine", "cifar100", "1", "70.00", "92.10 +- 0.40", "-22.10", "missed", "Somebody 2016"]
    assert results([*runs, run_of(0.918, seed=1)]).splitlines()[1] == first, "the same seed again is no other one"
    assert others == "not compared: 1 runs with other settings than their recipe's"
    assert results([]) == "no finished run follows a recipe whose result is published"


@pytest.mark.parametrize(
    ("difference", "said"), [(3, "reached"), (-0.4, "reached"), (-0.5, "close"), (-0.8, "close"), (-0.9, "missed")]
)
def test_the_verdict_on_a_result(difference, said):
    assert verdict(difference, 0.4) == said


def test_results_of_runs_on_disk(train, tmp_path, monkeypatch, command):
    """A run of a recipe with another network is found, and not compared."""
    put_small_cifar10(tmp_path, monkeypatch)
    train("recipe=lenet5_cifarzoo", "dataset=cifar10", f"dataset.root={tmp_path}", "trainer.max_epochs=1")
    ended = command("-m", "engine.recipes", "--results", str(tmp_path), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    nothing = "no finished run follows a recipe whose result is published"
    assert ended.stdout == f"{nothing}\nnot compared: 1 runs with other settings than their recipe's\n"
    ended = command("-m", "engine.recipes", "--results", str(tmp_path / "nowhere"), cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("nowhere: no such directory\n")
