"""A checkpoint of every family: evaluated, explained, its cost counted, exported and loaded again."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

import evaluate
import hubconf
from data.dataset import Images
from engine.build import training
from engine.report import cost, tables
from engine.run.directory import RunDirectory
from tests.support.marks import slow_except
from tests.support.networks import FAMILIES, SMALL_FAMILIES, make, multiply_adds, parameters, settling
from tests.support.pages import Text
from tests.support.runs import SMALL, composed

IMAGES = 20  # to test on, two of each class
FAST = {"lenet5"}


def checkpoint_of(name: str, place: Path) -> Images:
    """A run's directory with a checkpoint of a network as it begins, its statistics settled. -> its test images."""
    given = (*SMALL, f"model={name}", *FAMILIES[name], f"dataset.test_limit={IMAGES}")
    parts = training.parts(composed(*given), RunDirectory(place), keep_data=True)
    train = parts.loaders.train
    settling(parts.state.model).train()(train.normalize(train.images.images[:20]))
    parts.checkpoints.save("last", parts.state)
    return parts.splits.test


@pytest.fixture(scope="module")
def report() -> DictConfig:
    """What is asked of evaluate.py about the run where it is called: all that one report has room for."""
    words = ("tta=dense", "explain=true", "cost=true")
    return composed("checkpoint=.", "device=cpu", *words, config_name="evaluate")


@pytest.fixture(scope="module")
def export() -> DictConfig:
    """And what is asked of it then."""
    return composed("checkpoint=.", "device=cpu", "export=safetensors", config_name="evaluate")


def dense_logits(network: torch.nn.Module, images: Tensor) -> Tensor:
    """What a loaded network answers to images uint8 [N, C, H, W] that are 4 pixels larger each way, and mirrored."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (network.mean, network.std))
    larger = F.pad((images / 255 - mean) / std, (4, 4, 4, 4), mode="reflect")
    with torch.no_grad():
        return (network(larger) + network(larger.flip(3))) / 2


@pytest.fixture
def quick(monkeypatch):
    """Measure no speeds that anybody could use."""
    for name, value in {"TURNS": 1, "FEW_TURNS": 1, "SECONDS": 0.0, "FEWEST": 1, "MOST": 1}.items():
        monkeypatch.setattr(cost, name, value)


@pytest.mark.parametrize("name", slow_except(FAST, SMALL_FAMILIES))
def test_a_checkpoint_of_every_family(name, report, export, tmp_path, monkeypatch, quick):
    """What the files say of it is what comes of it by other ways."""
    images = checkpoint_of(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate.main(report.copy())
    figures = json.loads((tmp_path / "evaluation.json").read_text())

    network = hubconf.load(tmp_path)
    logits = dense_logits(network, images.images)
    assert logits.std(0).min() > 1e-4, "it answers the same to all images"
    taken = logits.argmax(1)
    assert figures["images"] == IMAGES
    assert figures["accuracy"] == (taken == images.labels).double().mean().item()
    assert figures["loss"] == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-4)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    confusion.index_put_((images.labels, taken), torch.tensor(1), accumulate=True)
    assert figures["confusion"] == confusion.tolist()

    looked = [*figures["grad_cam"]["right"], *figures["grad_cam"]["mistakes"]]
    maps = torch.tensor([values for one in looked for values in one["maps"].values()])
    assert maps.isfinite().all()
    assert 0 <= maps.min() < maps.max() == 1
    uneven = maps.amax((1, 2)) > maps.amin((1, 2))
    assert uneven.double().mean() > 0.5, "of most classes it can be told what speaks for them"

    ((_, taken_up),) = figures["cost"]["networks"].items()
    with torch.device("meta"):
        counted = make(name, *FAMILIES[name])
    assert (taken_up["parameters"], taken_up["multiply_adds"]) == (parameters(counted), multiply_adds(counted))
    assert taken_up["weight_bytes"] == sum(tensor.nbytes for tensor in network.state_dict().values())

    page = Text((tmp_path / "report.html").read_text())
    assert page.open == []
    assert {tables.interval(figures), f"{taken_up['multiply_adds']:,}", "Cost", "First filters"} <= set(page.words)

    evaluate.main(export.copy())
    again = hubconf.load(tmp_path / "export" / "model.safetensors")
    assert torch.equal(dense_logits(again, images.images), logits)
    for fact in ("classes", "mean", "std", "image_shape"):
        assert getattr(again, fact) == getattr(network, fact)
