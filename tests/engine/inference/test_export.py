"""Networks as files for other programs, read by these."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from torch import nn

import evaluate
import hubconf
from data.loader import Normalize
from engine.config import combinations, did_you_mean
from engine.config.schema import read_keys
from engine.inference.export import FILES, FORMATS, NotExported, WithNormalization, exported_program, write
from tests.support.commands import answer
from tests.support.marks import slow_except
from tests.support.networks import SMALL_FAMILIES
from tests.support.runs import composed

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
with_onnx = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f"wants {', '.join(PACKAGES)}")

FACTS = {"model": {}, "classes": list("abcdefghij"), "image_shape": [3, 32, 32]}
FACTS |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


@with_onnx
def test_a_trained_network_in_every_format(finished, caplog, capsys):
    """From a run to files that answer pixels as the run's own pipeline does, for any number of images."""
    import onnx
    import onnxruntime

    caplog.set_level("INFO")
    run = finished
    place = run.directory.path / "export"
    chosen = ["checkpoint=" + str(run.directory.path), "export=[onnx,torch,safetensors]"]
    evaluate.main(composed(*chosen, config_name="evaluate"))
    assert sorted(file.name for file in place.iterdir()) == ["README.md", *sorted(FILES.values())]
    assert caplog.text.count("logits differ by ") == 3
    assert capsys.readouterr().err == ""

    checkpoint, bare = run.checkpoint("best"), hubconf.load(run.directory.path)
    normalize = Normalize(checkpoint["mean"], checkpoint["std"], torch.device("cpu"), torch.contiguous_format)
    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(place / "model.pt2").module()
    for count in (1, 3, 64):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        expected = bare(normalize(images)).detach().numpy()
        assert np.ptp(expected) > 0.1
        from_onnx = session.run(["logits"], {"images": images.numpy().astype(np.float32) / 255})[0]
        np.testing.assert_allclose(from_onnx, expected, atol=1e-4)
        np.testing.assert_allclose(program(images / 255).detach().numpy(), expected, atol=1e-4)

    said = {entry.key: entry.value for entry in onnx.load(place / "model.onnx").metadata_props}
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(float)", [3, 32, 32])
    assert isinstance(given.shape[0], str), "a number of images that has a name is any number"
    files = {"about.json": ""}
    torch.export.load(place / "model.pt2", extra_files=files)
    with safe_open(place / "model.safetensors", framework="np") as content:
        assert set(content.keys()) == checkpoint["state"]["model"].keys()
        bare_said = content.metadata()
    for metadata in (said, json.loads(files["about.json"]), bare_said):
        for name in ("classes", "mean", "std", "image_shape"):
            assert json.loads(metadata[name]) == checkpoint[name]
        assert json.loads(metadata["model"])["_target_"] == "models.lenet.LeNet5"
    assert said["images"] == "float32 [B, 3, 32, 32], RGB from 0 to 1; the model normalises them"

    card = (place / "README.md").read_text()
    blocks = [yaml.safe_load(block.partition("```")[0]) for block in card.split("```yaml\n")[1:]]
    assert blocks[0]["classes"] == checkpoint["classes"]
    assert blocks[1]["result.json"]["test_accuracy"] == run.result["test_accuracy"]
    assert blocks[2] == checkpoint["config"]


# What torch.export may stumble over: sizes that are asked for, slices, interpolation, branches that are drawn.
RISKY = {
    "cbam_resnet20": {"depths": [1, 1, 1]},
    "ge_resnet56": {"depths": [1, 1, 1]},
    "shake_shake26_2x32d": {"depths": [1, 1, 1], "width": 8},
    "airbench94": {"widths": [8, 16, 16]},
}


@pytest.mark.parametrize("name", slow_except([], RISKY))
def test_a_network_can_be_captured_for_any_number_of_images(name):
    torch.manual_seed(0)
    network = WithNormalization(hubconf.create(name, num_classes=10, **RISKY[name]), FACTS["mean"], FACTS["std"]).eval()
    program = exported_program(network, FACTS).module()
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32)
        torch.testing.assert_close(program(images), network(images))


@with_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL_FAMILIES, "lenet5_1998"])
def test_a_network_is_exported_to_onnx(name, tmp_path):
    import onnx

    network = hubconf.create(name, num_classes=10)
    network.train()(torch.randn(8, 3, 32, 32))  # so that running statistics are not those of the beginning
    write("onnx", WithNormalization(network, FACTS["mean"], FACTS["std"]).eval(), FACTS, tmp_path)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


class Undecided(nn.Module):
    """A network that no graph can hold: what it computes depends on the pixels."""

    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 3 else images.amax((2, 3))


def test_what_cannot_be_exported_is_said_in_a_line(tmp_path):
    with pytest.raises(NotExported, match=r"^export=torch: \w+: .+$") as error:
        write("torch", WithNormalization(Undecided(), FACTS["mean"], FACTS["std"]), FACTS, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_a_file_with_other_answers_is_not_left(wrong, tmp_path, monkeypatch):
    def spoilt(network: nn.Module, _: object, file: Path):
        file.write_text("weights")
        return lambda images: network(images) + wrong

    monkeypatch.setitem(FORMATS, "torch", spoilt)
    network = WithNormalization(hubconf.create("lenet5", num_classes=10), FACTS["mean"], FACTS["std"]).eval()
    with pytest.raises(NotExported, match="export=torch: the file's logits differ from the network's by"):
        write("torch", network, FACTS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_formats_are_those_of_the_key():
    form = dict(read_keys((did_you_mean.CONF / "evaluate.yaml").read_text()))[("export",)].form
    assert form == f"{' | '.join(FORMATS)} | list of 1 to {len(FORMATS)} {' or '.join(FORMATS)} | null"
    assert FORMATS.keys() == FILES.keys()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("export=torch tta=flip", "tta= and export= cannot be combined: export= does not evaluate"),
        ("export=torch eval_batch_size=3", "eval_batch_size= and export="),
        ("export=[torch,torch] checkpoint=[one.pt,two.pt]", "export=: takes one checkpoint"),
        ("export=[torch,onnx]", "export=onnx: requires more packages: pip install onnx onnxscript onnxruntime"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(combinations, "find_spec", lambda package: None)
    for name in ("one.pt", "two.pt"):
        torch.save({}, tmp_path / name)
    assert why in answer("evaluate.py", f"checkpoint=one.pt {arguments}", monkeypatch, capsys)
