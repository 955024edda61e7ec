"""Checkpoints that say of themselves what is not so: one line, status 2 and no file, whatever is asked of them."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import save_file

import evaluate
import hubconf
from engine.build import training
from engine.inference.export import as_json, facts_of
from engine.run.directory import RunDirectory
from engine.training.checkpoint_file import CheckpointError
from engine.training.checkpoint_validation import invalid_field
from tests.support.runs import SMALL, composed

OF_TEST_IMAGES = {
    "plain": (),
    "cost": ("cost=true",),
    "explain": ("explain=true",),
    "robustness": ("robustness=true", "robustness_limit=10"),
    "tta": ("tta=dense",),
}
IN_PLACE = {"predict": ("predict=photo.png",), "export": ("export=[torch,safetensors]",)}

NAMES = list("abcdefghij")
NAN, INFINITE = math.nan, math.inf

# What is false wherever it is read.
FALSE = {
    "image_shape": [[3, 1, 1], [0, 32, 32], [3, 100_000, 100_000], "x", [3, 32], [3, 32, 32, 1], [3, -32, 32],
        [1, 32, 32], [3, 32.0, 32.0], [3, "a", "b"], [True, 32, 32], [3, 2**70, 32], {0: 3}, None, 3,
        torch.tensor([3, 32, 32])],
    "classes": [NAMES[:9], [*NAMES, "k"], [], "abcdefghij", [*range(10)], [None] * 10, dict.fromkeys(NAMES), ["a"] * 10,
        [[name] for name in NAMES], ["\ud800", *NAMES[1:]], None, torch.zeros(10)],
    "mean": [[0.5] * 5, [0.5], [], [NAN] * 3, [INFINITE] * 3, [-0.1] * 3, [128] * 3, [True] * 3, ["0.5"] * 3,
        [[0.5] * 3] * 3, "abc", 0.5, None, torch.tensor([0.5] * 3)],
    "std": [[0.5] * 5, [0.5], [], [NAN] * 3, [INFINITE] * 3, [0.0] * 3, [1e-300] * 3, [-1.0] * 3, [None] * 3,
        "abc", None],
    "precision": ["x", "auto", None, 3, ["fp32"], {}],
    "memory_format": ["x", "auto", None, ["channels_last"]],
    "steps_per_epoch": [0, -1, NAN, "x", None, [1]],
    "state.step": [-1, NAN, INFINITE, "x", None, torch.zeros(3)],
    "state.best_epoch": [-1, NAN, "x", None, [1]],
    "state.averages": [None, "x", {"ema": None}],
    "state.model": [None, {}, {"a": 1}, "x"],
    "state": [None, [], {}],
    "config.model": ["x", None, {}, [], 3, {"_target_": "os.system"}, {"_target_": "models.lenet.LeNet5", "size": 3},
        {"_target_": ["models.lenet.LeNet5"]}, {"_target_": "models.vgg.VGG", "depth": 11}],
    "config.tta": ["x", None, {}, [], {"_target_": "os.system"}],
    "config": [None, [], {}, "x"],
    "format": [None, 3, torch.tensor([1, 2])],
}  # fmt: skip

# What comes out beside the test images.
BESIDE_IMAGES = {
    "image_shape": [[3, 48, 48], [3, 32, 64]],
    "classes": [NAMES],
    "config.dataset": [None, "x", {}, [], {"_target_": "os.system"}],
    "config.dataset.image_size": [48, 1, "x"],
    "config.dataset.test_limit": [0, "x"],
    "config.trainer.eval_batch_size": [0, -1, 1.5, "x", None],
}

DENSE = {"_target_": "engine.evaluation.tta.dense.dense", "_partial_": True}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Any]:
    """A checkpoint of a run that is about to begin."""
    run = RunDirectory(tmp_path_factory.mktemp("sound"))
    parts = training.parts(composed(*SMALL, "dataset.test_limit=20"), run, keep_data=True)
    parts.checkpoints.save("last", parts.state)
    return torch.load(run.last, weights_only=True)


@pytest.fixture(scope="module")
def modes() -> dict[str, DictConfig]:
    """The configurations of what can be asked, of a file that lies where evaluate.py is called."""
    given = ("checkpoint=spoilt.pt", "device=cpu")
    return {
        mode: composed(*given, *words, config_name="evaluate") for mode, words in (OF_TEST_IMAGES | IN_PLACE).items()
    }


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory to stand in, with a photograph."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 50), "red").save("photo.png")
    return tmp_path


def spoilt(sound: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A checkpoint with another value under a dotted name."""
    content = copy.deepcopy(sound)
    *outer, last = name.split(".")
    node = content
    for part in outer:
        node = node[part]
    node[last] = value
    return content


def answer(config: DictConfig, capsys) -> str:
    """The one line with which evaluate.py refuses what lies here; there must be no file afterwards."""
    before = {*Path().rglob("*")}
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(config.copy())
    assert exit_.value.code == 2
    assert {*Path().rglob("*")} == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def cases(values: dict[str, list[Any]]) -> list[Any]:
    """A case for each value, with a short name."""
    return [
        pytest.param(name, value, id=f"{name}={value}"[:50].encode("ascii", "replace").decode())
        for name, several in values.items()
        for value in several
    ]


def asked(*few: str) -> list[Any]:
    """What is asked as parameters: few modes, and, slow, all."""
    return [pytest.param(few, id="few"), pytest.param((*OF_TEST_IMAGES, *IN_PLACE), id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("several", asked("plain"))
@pytest.mark.parametrize(("name", "value"), cases(FALSE))
def test_what_is_false_is_refused_in_every_mode(name, value, several, sound, modes, place, capsys):
    torch.save(spoilt(sound, name, value), "spoilt.pt")
    answers = {answer(modes[mode], capsys) for mode in several}
    assert len(answers) == 1, "it is the same wherever it is read"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "image_shape",
            [3, 1, 1],
            "image_shape=[3, 1, 1]: channels, height and width, from 32 to 8192 pixels each way",
        ),
        ("classes", "abc", "classes='abc': a list of distinct names"),
        ("mean", [NAN] * 3, "mean=[nan, nan, nan]: a number from 0 to 1 for each channel"),
        ("std", [0.0] * 3, "std=[0.0, 0.0, 0.0]: a number from 0.001 to 1 for each channel"),
        ("precision", "x", "precision='x': one of fp32, tf32, bf16, fp16"),
        ("state.step", -1, "step=-1: a whole number from 0"),
    ],
)
def test_the_line_says_what_cannot_be_and_what_could(name, value, said, sound, modes, place, capsys):
    torch.save(spoilt(sound, name, value), "spoilt.pt")
    assert answer(modes["plain"], capsys).endswith(f"spoilt.pt says {said} was expected\n")


@pytest.mark.parametrize("several", asked("plain"))
@pytest.mark.parametrize(("name", "value"), cases(BESIDE_IMAGES))
def test_what_the_test_images_contradict_is_refused(name, value, several, sound, modes, place, capsys):
    torch.save(spoilt(sound, name, value), "spoilt.pt")
    for mode in several:
        if mode in OF_TEST_IMAGES:
            answer(modes[mode], capsys)


@pytest.mark.parametrize("padding", [32, 10**6, -8, "x"])
def test_a_test_time_augmentation_that_the_network_cannot_answer_is_refused(padding, sound, modes, place, capsys):
    torch.save(spoilt(sound, "config.tta", DENSE | {"padding": padding}), "spoilt.pt")
    for mode in ("plain", "explain", "predict"):
        assert "does not describe what it holds" in answer(modes[mode], capsys)


def test_an_export_that_cannot_be_described_leaves_nothing(sound, modes, place, capsys):
    for dataset in (None, "x", {}):
        torch.save(spoilt(sound, "config.dataset", dataset), "spoilt.pt")
        answer(modes["export"], capsys)


def test_the_sound_checkpoint_is_none_of_these(sound, modes, place):
    assert invalid_field(sound) is invalid_field(sound["state"]) is None
    torch.save(sound, "spoilt.pt")
    for mode in ("plain", "predict", "export"):
        evaluate.main(modes[mode].copy())
    accuracy = json.loads(Path("evaluation.json").read_text())["accuracy"]
    assert 0 <= accuracy <= 1
    assert {file.name for file in Path("export").iterdir()} == {"README.md", "model.pt2", "model.safetensors"}


@pytest.mark.parametrize(
    ("name", "value"),
    cases({name: [value for value in FALSE[name] if not isinstance(value, torch.Tensor)] for name in ("image_shape",
    "classes", "mean", "std")}),
)  # fmt: skip
def test_what_is_false_is_refused_by_models_load(name, value, sound, tmp_path):
    """From a checkpoint, and from bare weights."""
    content = spoilt(sound, name, value)
    torch.save(content, tmp_path / "spoilt.pt")
    weights = {name: value.contiguous() for name, value in content["state"]["model"].items()}
    save_file(weights, tmp_path / "spoilt.safetensors", as_json(facts_of(content)))
    for file in ("spoilt.pt", "spoilt.safetensors"):
        with pytest.raises(CheckpointError) as error:
            hubconf.load(tmp_path / file)
        assert "\n" not in str(error.value)
