"""Export a trained network to other formats, in `export/` of its run.

`model.onnx` and `model.pt2` (torch.export) hold the normalisation too and run without this project: input "images",
float32 [B, C, H, W] in RGB from 0 to 1, any batch size B, the image size of training; output "logits", float32 [B, K].
`model.safetensors` holds only the weights and the metadata that `hubconf.load` needs, with a model card in README.md.
Everything is in fp32. Each file is read back and compared with the network's logits before it is moved into place.
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
from engine.run.console import logger
from engine.run.directory import RunDirectory, write_text
from engine.run.errors import NotSaved, RunError
from engine.run.find_checkpoint import common_directory, one_or_more
from engine.training.checkpoint_file import checkpoint_errors, require_valid
from engine.training.pretrained import load_safetensors

FACTS = ("model", "classes", "image_shape", "mean", "std")  # metadata of an exported file, each as JSON

COMPARED = (1, 5)  # batch sizes that are compared; neither is the one used for the export

TOLERANCE = 1e-4  # relative to the largest logit, or to 1 if that is smaller

Forward = Callable[[Tensor], Tensor]


class NotExported(RunError):
    """The network cannot be exported to this format; the message is one line that says why."""

    status = 1


class WithNormalization(nn.Module):
    """Normalise images float32 [B, C, H, W] from 0 to 1, then apply the network. -> logits float32 [B, K]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def export(trained: Trained, checkpoint: dict[str, Any], given: str | Sequence[str], file: Path) -> None:
    """Export a network to the formats `given` (names in `FORMATS`) and print how far the logits of each differ.

    Raises NotExported, NotSaved, and CheckpointError.
    """
    directory = common_directory([file])
    with checkpoint_errors():
        facts, card = facts_of(checkpoint), model_card(trained, checkpoint, directory)
        bare = trained.model.to("cpu", memory_format=torch.contiguous_format).eval()
        network = WithNormalization(bare, facts["mean"], facts["std"])
    for name in one_or_more(given):
        try:
            (directory.path / "export").mkdir(exist_ok=True)
            difference = write(name, network, facts, directory.path / "export")
            logger.info(
                f"{directory}/export/{FILES[name]}: logits differ by {difference:.1e} at most from the network's own"
            )
            if name == "safetensors":
                write_text(directory.path / "export" / "README.md", card)
        except OSError as error:
            raise NotSaved(f"{directory}/export could not be written ({error.strerror or error})") from None


def facts_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The entries of a checkpoint that are stored with exported weights, by the names in `FACTS`."""
    return {**{name: checkpoint[name] for name in FACTS[1:]}, "model": checkpoint["config"]["model"]}


def write(name: str, network: WithNormalization, facts: dict[str, Any], directory: Path) -> float:
    """Write one format. -> the largest difference between the file's logits and the network's.

    Raises NotExported, also if the difference is too large, and OSError.
    """
    with TemporaryDirectory(dir=directory) as temporary, export_errors(name):
        file = Path(temporary) / FILES[name]
        differences = []
        forward = FORMATS[name](network, facts, file)
        for count in COMPARED:
            images = torch.rand(count, *facts["image_shape"], generator=torch.Generator().manual_seed(count))
            with torch.no_grad():
                expected = network(images)
            difference = float((forward(images) - expected).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
                raise NotExported(f"export={name}: the file's logits differ from the network's by {difference:.1e}")
            differences.append(difference)
        file.replace(directory / file.name)
        return max(differences)


@contextmanager
def export_errors(name: str) -> Iterator[None]:
    """Turn errors of torch, ONNX and ONNX Runtime into NotExported, and silence their warnings."""
    for package in ("onnxscript", "onnx_ir"):
        logging.getLogger(package).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside these packages
            yield
    except Exception as error:  # of many kinds
        if isinstance(error, (RunError, OSError)) or is_out_of_memory(error):
            raise
        raise NotExported(f"export={name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error


def exported_program(network: WithNormalization, facts: dict[str, Any]) -> torch.export.ExportedProgram:
    """The network traced by torch.export, with a dynamic batch size."""
    images = torch.zeros(2, *facts["image_shape"])
    return torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def to_onnx(network: WithNormalization, facts: dict[str, Any], file: Path) -> Forward:
    """ONNX, with `metadata`."""
    import onnxruntime

    program = torch.onnx.export(
        exported_program(network, facts), dynamo=True, verbose=False, input_names=["images"], output_names=["logits"]
    )
    program.model.metadata_props.update(metadata(facts))
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def to_torch(network: WithNormalization, facts: dict[str, Any], file: Path) -> Forward:
    """torch.export's archive, with `metadata` in the extra file "about.json"."""
    torch.export.save(exported_program(network, facts), file, extra_files={"about.json": json.dumps(metadata(facts))})
    return torch.export.load(file).module()


def to_safetensors(network: WithNormalization, facts: dict[str, Any], file: Path) -> Forward:
    """The state_dict, with the facts as metadata."""
    weights = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    file.write_bytes(save(weights, {"format": "pt", **as_json(facts)}))
    values, about = read_weights(file)
    sizes = {"num_classes": len(about["classes"]), "in_channels": about["image_shape"][0]}
    return WithNormalization(
        from_checkpoint.restored(about["model"], values, **sizes).eval(), about["mean"], about["std"]
    )


FORMATS = {"onnx": to_onnx, "torch": to_torch, "safetensors": to_safetensors}

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}


def as_json(facts: dict[str, Any]) -> dict[str, str]:
    """The facts as JSON strings, since metadata values must be text."""
    return {name: json.dumps(facts[name]) for name in FACTS}


def metadata(facts: dict[str, Any]) -> dict[str, str]:
    """The facts, and a description of input and output, as text."""
    shape = ", ".join(map(str, facts["image_shape"]))
    return {
        **as_json(facts),
        "images": f"float32 [B, {shape}], RGB from 0 to 1; the model normalises them",
        "logits": f"float32 [B, {len(facts['classes'])}], in the order of the classes",
    }


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and facts in a .safetensors file. Raises CheckpointError, also for invalid facts."""
    weights, about = load_safetensors(file)
    with checkpoint_errors():
        facts = {name: json.loads(about[name]) for name in FACTS}
        require_valid(facts, file)
    return weights, facts


def model_card(trained: Trained, checkpoint: dict[str, Any], directory: RunDirectory) -> str:
    """Model card of model.safetensors in Markdown: usage, images and classes, metrics, configuration."""
    facts, config = facts_of(checkpoint), checkpoint["config"]
    epoch = checkpoint["state"]["step"] / checkpoint["steps_per_epoch"]
    figures = {name: content for name in CARD_KEYS if (content := read_figures(directory.path / name))}
    return CARD.format(
        name=config["model"]["_target_"].rpartition(".")[2],
        weights=trained.weights,
        epoch=f"{epoch:g}",
        dataset=config["dataset"]["_target_"],
        images="x".join(map(str, facts["image_shape"][1:])),
        facts=yaml_block({name: list(facts[name]) for name in FACTS[1:]}),
        figures=yaml_block(figures) if figures else "None were written.",
        config=yaml_block(config),
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

# Keys of the run's files that the model card shows.
CARD_KEYS = {
    "result.json": "model dataset recipe params multiply_adds train_images epochs seed chosen_epoch chosen_weights "
    "test_images test_accuracy test_top5_accuracy test_loss git_revision versions",
    "evaluation.json": "checkpoint weights tta images accuracy accuracy_interval top5_accuracy loss brier_score "
    "expected_calibration_error",
}


def read_figures(file: Path) -> dict[str, Any]:
    """The entries of a JSON file of the run that the model card shows; empty if it cannot be read."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return (
        {name: content[name] for name in CARD_KEYS[file.name].split() if name in content}
        if isinstance(content, dict)
        else {}
    )


def yaml_block(content: dict[str, Any]) -> str:
    """Plain data as a fenced YAML block in Markdown."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return f"```yaml\n{text}```\n"
