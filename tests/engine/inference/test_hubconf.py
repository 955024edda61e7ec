"""Networks for a notebook: created by name, and loaded with what their user needs."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import save_file

import hubconf
from engine.build import from_checkpoint, objects
from engine.inference import load
from engine.inference.export import FACTS, as_json, facts_of
from engine.run.errors import RunError
from engine.training.checkpoint_file import CheckpointError
from tests.support.networks import FAMILIES
from tests.support.runs import ROOT, composed, option_names


def settings_are_those_that_a_run_composes(names: Iterable[str]) -> None:
    """Each network's settings, beside all of them in one composition, which is shorter than one for each."""
    every = composed(*(f"+model@every.{name}={name}" for name in names)).every
    for name in names:
        assert load.model_settings(name) == objects.plain(every[name]), name


@pytest.mark.slow
def test_the_settings_are_those_that_a_run_composes():
    settings_are_those_that_a_run_composes(FAMILIES)
    assert load.model_settings("cbam_resnet20") == objects.plain(composed("model=cbam_resnet20").model)


@pytest.mark.slow
def test_all_settings_are_those_that_a_run_composes():
    settings_are_those_that_a_run_composes(option_names("model"))


@pytest.mark.parametrize(
    ("name", "settings", "overrides"),
    [
        ("lenet5", {}, []),
        ("cbam_resnet20", {"block_attention": {"reduction": 4}}, ["model.block_attention.reduction=4"]),
        ("preresnet20", {"depths": (1, 2, 1), "drop_path": 0.2}, ["model.depths=[1,2,1]", "+model.drop_path=0.2"]),
    ],
)
def test_a_network_is_the_one_that_a_run_trains(name, settings, overrides):
    torch.manual_seed(0)
    created = hubconf.create(name, num_classes=7, **settings)
    torch.manual_seed(0)
    model = objects.plain(composed(f"model={name}", *overrides).model)
    trained = objects.network(model, num_classes=7, in_channels=3)
    assert str(created) == str(trained)
    for ours, theirs in zip(created.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert created.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"^resnet21: there is no such network, did you mean resnet20 or resnet32\?"):
        hubconf.create("resnet21", num_classes=10)
    with pytest.raises(ValueError, match="width=3: must be a whole number >= 2, <= 4096, multiple of 2"):
        hubconf.create("shake_shake26_2x32d", num_classes=10, width=3)
    with pytest.raises(TypeError, match="widht"):
        hubconf.create("resnet20", num_classes=10, widht=3)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("resnet20", {"shortcut": "D"}, "shortcut=D: must be A or A_symmetric or B or C"),
        ("resnet20", {"depths": [3, 3]}, "depths=[3,3]: must have one entry per stage"),
        ("se_resnet20", {"widths": (16, 32)}, "must have one entry per stage"),
        ("lenet5", {"pooling": "min"}, "pooling=min: must be max or average"),
        ("shake_shake26_2x32d", {"forward_mixing": "bad"}, "forward_mixing=bad: must be "),
        ("mobilenet_v2", {"width": 0}, "width=0: must be a number >= 0.01, <= 32"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_as_on_the_command_line(name, settings, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        hubconf.create(name, num_classes=10, **settings)


def test_another_hydra_goes_on(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        mine = GlobalHydra.instance().hydra
        hubconf.create("cbam_resnet20", num_classes=10)
        assert GlobalHydra.instance().hydra is mine
        assert compose("mine").a == 1


@pytest.mark.slow
def test_the_import_is_light_and_works_from_anywhere(command):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import models\n"
        "print(sorted({'torch', 'numpy', 'hydra', 'engine'} & sys.modules.keys()))\n"
        "import hubconf\n"
        "print(sum(weights.numel() for weights in hubconf.create('lenet5', num_classes=10).parameters()))"
    )
    assert command("-c", program).stdout.split() == ["[]", "62006"]


def test_a_trained_network(train, tmp_path):
    """By its run, by a file, with an average's weights, and from bare weights: the answers are those of evaluation."""
    # Bare weights know no order in memory, and another order is another rounding.
    run = train("regularization=[weight_decay,ema]", "trainer.max_epochs=1", "trainer.memory_format=contiguous")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    checkpoint = run.checkpoint("best")
    expected = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu").model.eval()(images)
    network = hubconf.load(run.directory.path)
    assert not network.training
    assert torch.equal(network(images), expected)
    assert torch.equal(hubconf.load(str(run.directory.best))(images), expected)
    assert (list(network.classes), network.image_shape) == (checkpoint["classes"], (3, 32, 32))
    assert (list(network.mean), list(network.std)) == (checkpoint["mean"], checkpoint["std"])
    average, own = (hubconf.load(run.directory.last, weights=name)(images) for name in ("ema", "model"))
    assert not torch.equal(average, own)

    file = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), file, as_json(facts_of(checkpoint)))
    again = hubconf.load(file)
    assert torch.equal(again(images), expected)
    assert (again.classes, again.mean, again.std) == (network.classes, network.mean, network.std)


def spoilt(directory: Path, **changed: object) -> Path:
    """The bare weights of a small network, which say something else of themselves; None: do not say it."""
    facts = {
        "model": load.model_settings("lenet5"),
        "classes": ["a", "b"],
        "image_shape": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        **changed,
    }
    said = {name: json.dumps(facts[name]) for name in FACTS if facts[name] is not None}
    save_file(hubconf.create("lenet5", num_classes=2).state_dict(), directory / "spoilt.safetensors", said)
    return directory / "spoilt.safetensors"


def test_files_that_are_spoilt_or_hostile(tmp_path):
    assert hubconf.load(spoilt(tmp_path)).classes == ("a", "b")
    for changed, why in [
        ({"model": {"_target_": "os.system", "command": "false"}}, "asks for os.system"),
        ({"model": {"_target_": "models.lenet.LeNet5", "activation": "${oc.env:HOME}"}}, "holds the reference"),
        ({"classes": ["a", "b", "c"]}, "does not describe what it holds"),
        ({"mean": None}, "does not describe what it holds"),
        ({"image_shape": 3}, "says image_shape=3: "),
        ({"model": [1]}, "does not describe what it holds"),
    ]:
        with pytest.raises(CheckpointError, match=why):
            hubconf.load(spoilt(tmp_path, **changed))
    whole = spoilt(tmp_path).read_bytes()
    for content in (b"", whole[:100], whole[:-1]):
        (tmp_path / "cut.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a safetensors file"):
            hubconf.load(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="weights=ema"):
        hubconf.load(spoilt(tmp_path), weights="ema")
    for nowhere in ("nowhere", "nowhere.safetensors"):
        with pytest.raises(RunError, match=r"nowhere.* does not exist"):
            hubconf.load(nowhere)


# By torch.hub's way


def test_torch_hub_lists_and_loads_networks_by_name():
    assert {"load", *option_names("model")} == set(dir(hubconf))
    torch.manual_seed(0)
    network = torch.hub.load(str(ROOT), "lenet5", source="local", num_classes=7)
    torch.manual_seed(0)
    created = hubconf.create("lenet5", num_classes=7)
    for ours, theirs in zip(network.parameters(), created.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert "conf/model/lenet5.yaml" in hubconf.lenet5.__doc__


def test_a_trained_network_by_torch_hub(finished):
    network = torch.hub.load(str(ROOT), "load", finished.directory.path, source="local")
    assert not network.training
    assert len(network.classes) == 10


def test_a_name_that_there_is_not_has_the_nearest_beside_it():
    with pytest.raises(AttributeError, match="resnet21: no such network, did you mean resnet20"):
        hubconf.resnet21  # noqa: B018


@pytest.mark.slow
def test_modules_of_the_users_with_the_same_names_are_refused_in_one_line(command, tmp_path):
    (tmp_path / "models.py").write_text("")
    program = (
        f"import models, sys; sys.path.append({str(ROOT)!r})\n"
        "try:\n    import hubconf\nexcept ImportError as error:\n    print(error)"
    )
    ended = command("-c", program, cwd=tmp_path)
    assert "its package `models` clashes with <module 'models' from " in ended.stdout
    assert ended.stdout.count("\n") == 1
