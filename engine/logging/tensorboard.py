"""The sink for TensorBoard: curves and their layout, texts, images, and the network's graph."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import yaml
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard.summary import custom_scalars, hparams, image, scalar, text

from data.dataset import Images
from data.loader import TrainLoader
from engine.device.flops import MultiplyAdds, run_forward
from engine.evaluation import metrics
from engine.evaluation.evaluate import Evaluation
from engine.logging.epoch_metrics import tag
from engine.logging.events import EventFile
from engine.logging.sink import Begun, Ended
from engine.plotting.images import MOST_CLASSES, confusion, tiles
from engine.plotting.tables import as_markdown

ERRORS = 32  # shown at most
SHOWN = 64  # augmented images


class TensorBoard:
    """Curves, texts and images in the event files of a run's directory.

    With `log_graph` the network's graph as well.
    """

    name = "tensorboard"

    def __init__(self, *, log_graph: bool):
        self.log_graph = log_graph
        self.events: EventFile | None = None
        self.steps = 0
        self.is_whole: bool | None = None  # whether the files hold all epochs but perhaps the last; None: unknown yet

    def begin(self, begun: Begun) -> None:
        """Open a file; it holds the curves from the first epoch on unless earlier files do."""
        self.close()
        directory, records = begun.run.tensorboard, begun.records
        is_whole = directory.is_dir() if self.is_whole is None else self.is_whole and directory.is_dir()
        # The last epoch is written again, since the end of the run may stand at the same step.
        known = max(len(records) - 1, 0) if is_whole else 0
        self.is_whole = False
        self.events, self.steps = EventFile(directory, step=known), known
        for record in records[known:]:
            self.add_record(record)
        if not records and begun.train is not None:
            self.show(beginning(begun.model, begun.train, config=begun.config, facts=begun.facts))
            if self.log_graph:
                self.events.add_graph(graph(begun.model, begun.train))
        self.events.flush()
        self.is_whole = True

    def epoch(self, record: dict[str, Any]) -> None:
        """Add an epoch to the curves."""
        self.is_whole = False
        self.add_record(record)
        self.events.flush()
        self.is_whole = True

    def end(self, ended: Ended) -> None:
        """Add the images of the test, and the hyperparameters with the final figures, in this same run."""
        if ended.tested is not None:
            self.show(ending(ended.tested, ended.images, ended.classes))
        if ended.final:
            final = {f"final/{name}": value for name, value in ended.final.items()}
            for summary in hparams(ended.hyperparameters, final):
                self.events.add(summary, 0)
            for name, value in final.items():
                self.events.add(scalar(name, value), self.steps)
        self.events.flush()
        self.close()

    def add_record(self, record: dict[str, Any]) -> None:
        """Add the figures of an epoch that have a curve."""
        self.steps = record["epoch"]
        for name, value in record.items():
            if shown := tag(name):
                self.events.add(scalar(shown, value), self.steps)

    def show(self, summaries: Iterable[Summary]) -> None:
        """Add texts and images at the epoch to which the run has come."""
        for summary in summaries:
            self.events.add(summary, self.steps)

    def close(self) -> None:
        """Close the file; what follows goes into a new one."""
        events, self.events = self.events, None
        if events:
            events.close()


def beginning(
    model: nn.Module, train: TrainLoader, *, config: dict[str, Any], facts: dict[str, Any]
) -> Iterator[Summary]:
    """What is known before the first step: the layout of the curves, the texts, the first augmented images."""
    yield custom_scalars(
        {
            "curves": {
                "loss": ["Multiline", ["loss/.*"]],
                "accuracy": ["Multiline", [r"accuracy/(?!.*top-5).*"]],
                "top-5 accuracy": ["Multiline", [r"accuracy/.*top-5.*"]],
                "norms": ["Multiline", ["norm/.*"]],
            }
        }
    )
    yield text("configuration", f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```")
    yield text("network", as_markdown(layers(model, train.images.images.shape[1:])))
    yield text("run", as_markdown([("", ""), *((name, str(fact)) for name, fact in facts.items())]))
    batch, _ = next(train.epoch(0))
    yield image("first augmented batch", train.normalize.undo(batch[:SHOWN]), dataformats="NCHW")


def ending(tested: Evaluation, images: Images, classes: Sequence[str]) -> Iterator[Summary]:
    """The test on `images`: the confusion matrix, and the most confident errors."""
    labels, predicted, confidence = images.labels.cpu().numpy(), tested.predicted.numpy(), tested.confidence.numpy()
    counts = metrics.confusion_matrix(labels, predicted, len(classes))
    if len(classes) <= MOST_CLASSES:
        yield image("confusion matrix", confusion(counts, classes), dataformats="HWC")
    errors = metrics.most_confident_errors(labels, predicted, confidence)[:ERRORS]
    if len(errors):
        lines = [
            (classes[labels[index]], classes[predicted[index]], f"{100 * confidence[index]:.0f} %") for index in errors
        ]
        pixels = images.images[torch.from_numpy(errors)].cpu().numpy()
        yield image("most confident errors", tiles(pixels, lines), dataformats="HWC")


def layers(model: nn.Module, image_shape: torch.Size) -> list[Sequence[str]]:
    """The parts of a network for an image [C, H, W]: name, class, output, parameters, multiply-adds.

    Dashes stand for what is not there in evaluation, as of auxiliary heads.
    """
    before, found = {}, {}
    counter = MultiplyAdds()

    def enter(part: nn.Module, _: object) -> None:
        before[part] = counter.total

    def leave(part: nn.Module, _: object, output: object) -> None:
        found[part] = output, counter.total - before[part]

    hooks = [part.register_forward_pre_hook(enter) for part in model.modules()]
    hooks += [part.register_forward_hook(leave) for part in model.modules()]
    with counter:
        run_forward(model, image_shape)
    for hook in hooks:
        hook.remove()
    rows: list[Sequence[str]] = [("part", "class", "output", "parameters", "multiply-adds")]
    for name, part in parts_of(model, set(found)):
        output, multiply_adds = found.get(part, (None, None))
        shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else "-"
        parameters = sum(parameter.numel() for parameter in part.parameters())
        count = "-" if multiply_adds is None else f"{multiply_adds:,}"
        rows.append((name, type(part).__name__, shape, f"{parameters:,}", count))
    return rows


def parts_of(model: nn.Module, called: set[nn.Module], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts that a network's class names; of a sequence, or of what is not `called` itself, the members."""
    for name, part in model.named_children():
        in_pieces = part not in called and called & set(part.modules())
        if in_pieces or (not prefix and isinstance(part, nn.Sequential)):
            yield from parts_of(part, called, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def graph(model: nn.Module, train: TrainLoader) -> GraphDef:
    """The operators of a network for an image."""
    from torch.utils.tensorboard._pytorch_graph import graph as traced

    model, images = copy.deepcopy(model), train.normalize(train.images.images[:1])  # a copy is not compiled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that what TensorBoard shows is made by its older tracing
        found, _ = traced(model.eval(), images)
    return found
