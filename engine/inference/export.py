"""A trained network as a file for other programs, in `export/` of its run.

`model.onnx` and `model.pt2` (torch.export) hold the normalisation too and run without this project: input "images",
float32 [B, C, H, W] in RGB from 0 to 1, of any number B and the size of the training; output "logits", float32 [B, K].
`model.safetensors` holds the bare weights, with what `hubconf.load` needs, and a model card lies beside it. Everything
is in fp32, and a file is only there once it has been read again and gave the network's own answers.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn

from engine.build import from_checkpoint
from engine.build.from_checkpoint import Trained
from engine.device.memory import is_out_of_memory
from engine.run.console import say
from engine.run.directory import RunDirectory, write_text
from engine.run.errors import NotSaved, RunError
from engine.run.paths import common_directory, one_or_more
from engine.training.checkpoint_file import described, require_possible
from engine.training.pretrained import load_safetensors

FACTS = ("model", "classes", "image_shape", "mean", "std")  # what a file says of its network, each as JSON

COMPARED = (1, 5)  # images at once; neither is the number that the export is shown

TOLERANCE = 1e-4  # of the largest logit, or of 1 where that is smaller

Answers = Callable[[Tensor], Tensor]


class NotExported(RunError):
    """A network that a format cannot hold; the message is one line that says why."""

    status = 1


class WithNormalization(nn.Module):
    """Images float32 [B, C, H, W] from 0 to 1, normalised, through the network. -> logits float32 [B, K]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def export(trained: Trained, checkpoint: dict[str, Any], given: str | Sequence[str], file: Path) -> None:
    """Write a network in the formats `given`, by their names in `FORMATS`, and say how well each agrees with it.

    Raises NotExported, NotSaved, and CheckpointError.
    """
    place = common_directory([file])
    with described():
        facts, card = facts_of(checkpoint), model_card(trained, checkpoint, place)
        bare = trained.model.to("cpu", memory_format=torch.contiguous_format).eval()
        network = WithNormalization(bare, facts["mean"], facts["std"])
    for name in one_or_more(given):
        try:
            (place.path / "export").mkdir(exist_ok=True)
            difference = write(name, network, facts, place.path / "export")
            say(f"{place}/export/{FILES[name]}: logits differ by {difference:.1e} at most from the network's own")
            if name == "safetensors":
                write_text(place.path / "export" / "README.md", card)
        except OSError as error:
            raise NotSaved(f"{place}/export could not be written ({error.strerror or error})") from None


def facts_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What of a checkpoint belongs to its weights, by the names in `FACTS`."""
    return {**{name: checkpoint[name] for name in FACTS[1:]}, "model": checkpoint["config"]["model"]}


def write(name: str, network: WithNormalization, facts: dict[str, Any], directory: Path) -> float:
    """Write one format. -> the largest difference of the file's logits from the network's.

    Raises NotExported, also where that is too large, and OSError.
    """
    with TemporaryDirectory(dir=directory) as beside, exporting(name):
        file = Path(beside) / FILES[name]
        differences = []
        answers = FORMATS[name](network, facts, file)
        for count in COMPARED:
            images = torch.rand(count, *facts["image_shape"], generator=torch.Generator().manual_seed(count))
            with torch.no_grad():
                expected = network(images)
            difference = float((answers(images) - expected).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
                raise NotExported(f"export={name}: the file's logits differ from the network's by {difference:.1e}")
            differences.append(difference)
        file.replace(directory / file.name)
        return max(differences)


@contextmanager
def exporting(name: str) -> Iterator[None]:
    """Within, whatever torch, ONNX and its runtime raise at a network is NotExported; what they tell is left out."""
    for package in ("onnxscript", "onnx_ir"):
        logging.getLogger(package).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what these packages will change in themselves
            yield
    except Exception as error:  # of many kinds
        if isinstance(error, (RunError, OSError)) or is_out_of_memory(error):
            raise
        raise NotExported(f"export={name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error


def captured(network: WithNormalization, facts: dict[str, Any]) -> torch.export.ExportedProgram:
    """The network as torch.export sees it: a graph for any number of images."""
    images = torch.zeros(2, *facts["image_shape"])
    return torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def to_onnx(network: WithNormalization, facts: dict[str, Any], file: Path) -> Answers:
    """ONNX, with the metadata of `texts`."""
    import onnxruntime

    program = torch.onnx.export(
        captured(network, facts), dynamo=True, verbose=False, input_names=["images"], output_names=["logits"]
    )
    program.model.metadata_props.update(texts(facts))
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def to_torch(network: WithNormalization, facts: dict[str, Any], file: Path) -> Answers:
    """torch.export's archive, with the metadata of `texts` in the extra file "about.json"."""
    torch.export.save(captured(network, facts), file, extra_files={"about.json": json.dumps(texts(facts))})
    return torch.export.load(file).module()


def to_safetensors(network: WithNormalization, facts: dict[str, Any], file: Path) -> Answers:
    """The weights by their names, with the facts as metadata."""
    weights = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    file.write_bytes(save(weights, {"format": "pt", **as_json(facts)}))
    values, said = read_weights(file)
    sizes = {"num_classes": len(said["classes"]), "in_channels": said["image_shape"][0]}
    return WithNormalization(from_checkpoint.restored(said["model"], values, **sizes).eval(), said["mean"], said["std"])


FORMATS = {"onnx": to_onnx, "torch": to_torch, "safetensors": to_safetensors}

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}


def as_json(facts: dict[str, Any]) -> dict[str, str]:
    """The facts as text, which is all that metadata hold."""
    return {name: json.dumps(facts[name]) for name in FACTS}


def texts(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a network with its normalisation, and what goes in and out, as text."""
    shape = ", ".join(map(str, facts["image_shape"]))
    return {
        **as_json(facts),
        "images": f"float32 [B, {shape}], RGB from 0 to 1; normalised within",
        "logits": f"float32 [B, {len(facts['classes'])}], of the classes in their order",
    }


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a .safetensors and its facts. Raises CheckpointError, also for facts that cannot be."""
    weights, said = load_safetensors(file)
    with described():
        facts = {name: json.loads(said[name]) for name in FACTS}
        require_possible(facts, file)
    return weights, facts


def model_card(trained: Trained, checkpoint: dict[str, Any], place: RunDirectory) -> str:
    """What model.safetensors is, as Markdown: how to use it, its images and classes, figures, all settings."""
    facts, config = facts_of(checkpoint), checkpoint["config"]
    epoch = checkpoint["state"]["step"] / checkpoint["steps_per_epoch"]
    figures = {name: said for name in TOLD if (said := figures_in(place.path / name))}
    return CARD.format(
        name=config["model"]["_target_"].rpartition(".")[2],
        weights=trained.weights,
        epoch=f"{epoch:g}",
        dataset=config["dataset"]["_target_"],
        images="x".join(map(str, facts["image_shape"][1:])),
        facts=in_yaml({name: list(facts[name]) for name in FACTS[1:]}),
        figures=in_yaml(figures) if figures else "None were written.",
        config=in_yaml(config),
    )


CARD = """\
# {name}

`model.safetensors` holds the weights ("{weights}", after {epoch} epochs) of a network that was trained on
`{dataset}`.

```python
import hubconf  # with the project's folder on sys.path

network = hubconf.load("model.safetensors")  # in evaluation mode; it has the values below as attributes
logits = network((images - mean) / std)     # images float32 [B, C, H, W] in RGB from 0 to 1, {images} pixels
```

## Images and classes

{facts}
## Figures

What the run's files say, of the checkpoint that they name; shares are of 1.

{figures}
## Settings

{config}"""

# What is told of the run's files, as far as it stands there.
TOLD = {
    "result.json": "model dataset recipe params multiply_adds train_images epochs seed chosen_epoch chosen_weights "
    "test_images test_accuracy test_top5_accuracy test_loss git_revision versions",
    "evaluation.json": "checkpoint weights tta images accuracy accuracy_interval top5_accuracy loss brier_score "
    "expected_calibration_error",
}


def figures_in(file: Path) -> dict[str, Any]:
    """What a JSON file of the run says that a model card should; nothing where it cannot be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return (
        {name: content[name] for name in TOLD[file.name].split() if name in content}
        if isinstance(content, dict)
        else {}
    )


def in_yaml(content: dict[str, Any]) -> str:
    """Plain data as a block of YAML in Markdown."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return f"```yaml\n{text}```\n"
