"""Weights to begin with: whose names are known, what is taken of them, and what is refused."""

import pickle
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from engine.build import autotune, objects
from engine.config import identity
from engine.config.command import command_line
from engine.evaluation.evaluate import predict
from engine.run.errors import CommandError
from engine.run.find_checkpoint import find_weights
from engine.training.checkpoint_file import CheckpointError, chosen_weights, read
from engine.training.pretrained import read_pretrained, renamed_weight
from tests.support.files import Bomb
from tests.support.networks import randomize
from tests.support.runs import SMALL, composed, interrupt_after, rebuilt, same


def ours(name: str, *overrides: str, classes: int = 10) -> nn.Module:
    """A network of the zoo."""
    model = objects.plain(composed(f"model={name}", *overrides).model)
    return objects.network(model, num_classes=classes, in_channels=3)


def filled(model: nn.Module, file: Path, content) -> nn.Module:
    """The model with what is taken from a file of this content, and both in evaluation mode."""
    torch.save(content, file)
    read_pretrained(file).load_into(model)
    return model.eval()


class TheirBlock(nn.Module):
    """A basic block in the names of kuangliu and akamaster; a shortcut without weights pads with zeros around."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, pads: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut, self.padding = nn.Sequential(), 0
        if stride > 1 and pads:
            self.padding = (channels - in_channels) // 2
        elif stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(branch + self.shortcut(x))


class TheirResNet(nn.Module):
    """A small residual network in the names of kuangliu and akamaster."""

    def __init__(self, *, pads: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        made = [TheirBlock(*sizes, pads=pads) for sizes in blocks]
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*made[first : first + 2]) for first in (0, 2, 4))
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))


def theirs(*, pads: bool = False) -> TheirResNet:
    """Such a network with random weights and statistics."""
    torch.manual_seed(0)
    model = TheirResNet(pads=pads).eval()
    randomize(model)
    return model


SMALL_RESNET = ("model=resnet20", "model.depths=[2,2,2]")


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("resnet18", lambda: torchvision.models.resnet18()),
        pytest.param("resnet50", lambda: torchvision.models.resnet50(), marks=pytest.mark.slow),
        pytest.param("resnet18", lambda: timm.create_model("resnet18", num_classes=10), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_the_stages_of_torchvision_and_timm_compute_the_same(name, reference, tmp_path, caplog):
    """Behind the stem, which is another one; of the head what has as many classes."""
    caplog.set_level("INFO")
    torch.manual_seed(0)
    reference = reference().eval()
    randomize(reference)
    classes = reference.fc.out_features
    model = ours(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    filled(model, tmp_path / "weights.pth", reference.state_dict())
    found = expected = torch.randn(1, 64, 16, 16)
    for number, stage in enumerate(model.stages, 1):
        found, expected = stage(found), getattr(reference, f"layer{number}")(expected)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(model.stem[0].weight, before["stem.0.weight"])
    assert torch.equal(model.stem[1].running_mean, reference.bn1.running_mean)
    has_own_head = classes != 10
    assert torch.equal(model.head.linear.weight, before["head.linear.weight"] if has_own_head else reference.fc.weight)
    count = len([key for key in before if "num_batches" not in key])
    loaded = count - 1 - 2 * has_own_head
    assert f"weights.pth: {loaded} of {count} tensors loaded; missing: stem.0.weight" in caplog.text
    assert "unused: stem.0.weight [64, 3, 7, 7]" in caplog.text


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"net": state, "acc": 93.0, "epoch": 3}])
@torch.no_grad()
def test_a_network_in_the_names_of_kuangliu_and_akamaster_says_the_same(pads, wrap, tmp_path):
    reference = theirs(pads=pads)
    model = ours("resnet20", SMALL_RESNET[1], f"model.shortcut={'A_symmetric' if pads else 'B'}")
    filled(model, tmp_path / "weights.th", wrap(reference.state_dict()))
    images = torch.randn(4, 3, 32, 32)
    assert (model(images) - reference(images)).abs().max() <= 1e-5 * reference(images).abs().max()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapping", ["state_dict", "model", "net"])
def test_wrappings(prefix, wrapping, tmp_path):
    reference = theirs().state_dict()
    model = ours("resnet20", SMALL_RESNET[1], "model.shortcut=B")
    content = {wrapping: {f"{prefix}{name}": tensor for name, tensor in reference.items()}, "epoch": 3}
    filled(model, tmp_path / "weights.pt", content)
    assert torch.equal(model.head.linear.weight, reference["linear.weight"])
    assert torch.equal(model.stages[1][0].shortcut[1].running_var, reference["layer2.0.shortcut.1.running_var"])


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.old.pth", "half.pth"])
def test_other_files(name, tmp_path):
    """Of safetensors, of torch before 1.6, in 16 bits."""
    reference = theirs().state_dict()
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(reference, tmp_path / name)
    elif name == "half.pth":
        torch.save(
            {key: tensor.bfloat16() if tensor.ndim else tensor for key, tensor in reference.items()}, tmp_path / name
        )
    else:
        torch.save(reference, tmp_path / name, _use_new_zipfile_serialization=False)
    model = ours("resnet20", SMALL_RESNET[1], "model.shortcut=B")
    read_pretrained(tmp_path / name).load_into(model)
    expected = reference["linear.weight"]
    assert torch.equal(model.head.linear.weight, expected.bfloat16().float() if name == "half.pth" else expected)


def test_names_that_are_not_known_stay():
    for name in (
        "layer1.0.se.fc1.weight",
        "backbone.conv1.weight",
        "layer1.conv1.weight",
        "stages.0.0.residual.0.weight",
    ):
        assert renamed_weight(name) == name
    assert renamed_weight("layer4.2.bn3.running_var") == "stages.3.2.residual.7.running_var"
    assert renamed_weight("layer2.0.downsample.0.weight") == renamed_weight("layer2.0.shortcut.0.weight")


def test_names_are_only_mapped_where_a_residual_network_is_meant(tmp_path):
    """Many a network has a conv1 and an fc."""
    torch.save({"conv1.weight": torch.zeros(16, 3, 3, 3), "fc.bias": torch.zeros(10)}, tmp_path / "other.pth")
    assert set(read_pretrained(tmp_path / "other.pth").weights) == {"conv1.weight", "fc.bias"}
    with pytest.raises(
        CheckpointError, match=r"has no weights of this network: it has conv1\.weight \[16, 3, 3, 3\], fc"
    ):
        read_pretrained(tmp_path / "other.pth").load_into(ours("resnet20"))


def test_a_vector_of_the_same_length_is_nothing_taken(tmp_path):
    torch.save({"head.linear.bias": torch.ones(10), "head.linear.weight": torch.ones(10, 512)}, tmp_path / "other.pth")
    model = ours("resnet20")
    with pytest.raises(CheckpointError, match="has no weights of this network"):
        read_pretrained(tmp_path / "other.pth").load_into(model)
    assert not model.head.linear.bias.any(), "it is as it was"


def nested(value, depth: int):
    """A value in that many lists."""
    return value if depth == 0 else [nested(value, depth - 1)]


WRONG: dict[str, Callable[[Path], object]] = {
    "empty.pth": lambda file: file.write_bytes(b""),
    "text.pth": lambda file: file.write_text("weights"),
    "pickle.pth": lambda file: file.write_bytes(pickle.dumps({"weight": [1.0]})),
    "rubbish.pth": lambda file: file.write_bytes(b"PK\x03\x04 rubbish"),
    "bomb.pth": lambda file: torch.save({"weight": Bomb()}, file),
    "old_bomb.pth": lambda file: torch.save({"weight": Bomb()}, file, _use_new_zipfile_serialization=False),
    "list.pth": lambda file: torch.save(nested(torch.zeros(2), 3), file),
    "tensor.pth": lambda file: torch.save(torch.zeros(2), file),
    "numbers.pth": lambda file: torch.save({"weight": torch.zeros(2, dtype=torch.int64)}, file),
    "names.pth": lambda file: torch.save({3: torch.zeros(2), "\x1b[31m": torch.zeros(2)}, file),
    "complex.pth": lambda file: torch.save({"weight": torch.zeros(2, dtype=torch.complex64)}, file),
    "sparse.pth": lambda file: torch.save({"weight": torch.eye(2).to_sparse()}, file),
    "meta.pth": lambda file: torch.save({"weight": torch.zeros(2, device="meta")}, file),
    "another_format.pt": lambda file: torch.save({"format": 99}, file),
    "no_state.pt": lambda file: torch.save({"format": 4}, file),
    "text.safetensors": lambda file: file.write_text("weights"),
    "torch.safetensors": lambda file: torch.save({"weight": torch.zeros(2)}, file),
    "cut.safetensors": lambda file: file.write_bytes(safetensors.torch.save({"weight": torch.zeros(99)})[:-4]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_holds_no_weights_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRONG[name](Path(name))
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}|the checkpoint") as caught:
        read_pretrained(Path(name))
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_a_damaged_or_compressed_file_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(1000)}, file)
    content = bytearray(file.read_bytes())
    content[content.find(b"\x00\x00\x80\x3f" * 4) + 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: wrong checksum of weights/data/0"):
        read_pretrained(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(CheckpointError, match="it is compressed"):
        read_pretrained(file)


def test_a_run_begins_with_another(train, caplog):
    """By its directory, with the weights that did best; for other classes all but the last layer."""
    caplog.set_level("INFO")
    first = train("regularization=[ema]")
    best = first.checkpoint("best")
    chosen = chosen_weights(best, None)[1]
    again = train(
        f"init_from={first.directory.path}", "optimizer.lr=1e-30", "trainer.max_epochs=1", "regularization=[]"
    )
    for name, tensor in again.checkpoint()["state"]["model"].items():
        assert torch.allclose(tensor, chosen[name], atol=1e-12)
    caplog.clear()
    read_pretrained(first.directory.last).load_into(ours("lenet5", classes=100))
    assert "8 of 10 tensors loaded; missing: head.6.weight [100, 84], head.6.bias [100]; unused" in caplog.text


def test_weights_go_into_averages_as_well(finished):
    first = finished
    weights = first.checkpoint("best")["state"]["model"]
    config = composed(*SMALL, f"init_from={first.directory.path}", "regularization=[ema]")
    backend, splits = autotune.possible_backends(config)[0], objects.splits(config)
    state = objects.state(config, splits, backend, pretrained=read_pretrained(find_weights(config.init_from)))
    for network in state.networks().values():
        assert same(dict(network.state_dict()), weights)
    assert not same(dict(objects.state(config, splits, backend).model.state_dict()), weights)


@pytest.mark.slow
def test_a_fine_tuned_run_resumes_bitwise_without_the_file(train, monkeypatch, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({name: tensor + 0.01 for name, tensor in ours("lenet5").state_dict().items()}, file)
    settings, directory = (f"init_from={file}", "trainer.max_epochs=2"), tmp_path / "resumed"
    undisturbed = train(*settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(SystemExit) as exit_:
            train(*settings, directory=directory)
    assert exit_.value.code == 128 + signal.SIGINT
    file.unlink()
    resumed = train(*settings, f"resume={directory}", directory=directory)
    first, second = (run.checkpoint()["state"] for run in (undisturbed, resumed))
    assert same(first["model"], second["model"])
    assert same(first["optimizer"], second["optimizer"])
    assert not same(first["model"], train("trainer.max_epochs=2").checkpoint()["state"]["model"])


def test_resume_does_not_ask_for_the_file(train, monkeypatch, tmp_path, capsys):
    """On the command line, whose words then come out of the run's directory."""
    file = tmp_path / "weights.pth"
    torch.save(ours("lenet5").state_dict(), file)
    run = train(f"init_from={file}", "trainer.max_epochs=1").directory
    run.overrides.write_text(f"- init_from={file}\n- model=lenet5\n- dataset=shapes\n")
    file.unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", f"resume={run.path}"])
    command_line("config")
    assert capsys.readouterr().err == ""
    with pytest.raises(CommandError, match="no weights found"):
        find_weights(str(file))


def test_what_a_run_begins_with_decides_it(tmp_path):
    def named(*overrides: str) -> str:
        return identity.identity(composed(*overrides))

    names = [named(), named("init_from=a.pth"), named("init_from=b.pth")]
    assert len(set(names)) == 3
    assert named("init_from=a.pth", "init_only=true") == names[1]


def test_weights_of_others_become_a_checkpoint_that_is_evaluated(train, tmp_path, caplog):
    """And that a run can go on from."""
    caplog.set_level("INFO")
    reference = theirs(pads=True)
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "weights.th")
    network = (*SMALL_RESNET, "model.shortcut=A_symmetric", f"init_from={tmp_path / 'weights.th'}")
    run = train(*network, "init_only=true")
    assert f"written to {run.directory}/checkpoints/last.pt, which evaluate.py reads" in caplog.text
    assert {path.name for path in run.directory.path.iterdir()} == {".hydra", ".lock", "checkpoints"}
    assert "init_only" not in run.directory.overrides.read_text()
    found, images = rebuilt(read(run.directory.last))
    logits, _ = predict(found.model, images.test, precision=found.precision)
    expected, _ = predict(reference, images.test, precision=found.precision)
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    further = train(*network, f"resume={run.directory.path}", directory=run.directory.path)
    assert further.result["epochs"] == 2
