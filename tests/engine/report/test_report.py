"""The report of trained networks: figures, tables, pictures, the page."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from data.dataset import Images
from engine.evaluation import metrics
from engine.evaluation.evaluate import label_rank
from engine.plotting import plot
from engine.plotting.images import confusion
from engine.report import network_result, pictures, report, tables
from engine.report.network_result import NetworkResult, NotComparable, comparison, ensemble
from engine.report.page import page
from engine.report.parts import Part
from engine.run.directory import format_json
from engine.training.checkpoint_file import read
from tests.support.logits import KINDS, answers
from tests.support.pages import Text
from tests.support.runs import rebuilt


def network(kind: str = "random", *, classes: list[str] | None = None, channels: int = 3) -> NetworkResult:
    """A network with such answers, to images of chance."""
    logits, labels = answers(kind)
    classes = classes or [f"class {number}" for number in range(logits.shape[1])]
    images = torch.randint(0, 256, (len(labels), channels, 32, 32), generator=torch.Generator().manual_seed(0))
    shown = Images(images.to(torch.uint8), torch.from_numpy(labels))
    few = min(200, len(labels))
    return NetworkResult(
        name="a network",
        file=Path("run/checkpoints/best.pt"),
        weights="model",
        tta="none",
        classes=classes,
        images=shown,
        held_out=shown.subset(torch.arange(few)),
        logits=logits,
        labels=labels,
        val=(logits[:few], labels[:few]),
        parameters=1234,
        images_per_second=1000.0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_of_any_answers_can_be_written_and_read(kind, tmp_path):
    one = replace(network(kind), file=tmp_path / "checkpoints" / "best.pt")
    report.report([one])
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["accuracy"] == one.correct.mean()
    its, temperature = figures["calibrated"], metrics.fitted_temperature(*one.val)
    assert its["temperature"] == temperature, "found on images that were held out"
    assert its["loss"] == metrics.negative_log_likelihood(one.logits / temperature, one.labels)
    assert sum(map(sum, figures["confusion"])) == len(one.labels)
    text = Text((tmp_path / "report.html").read_text())
    assert text.open == []
    assert all(source.startswith("data:image/png;base64,") for source in text.sources), "nothing comes from elsewhere"
    for shown in (
        tables.interval(figures),
        f"{figures['loss']:.4f}",
        f"{figures['brier_score']:.4f}",
        f"{100 * figures['expected_calibration_error']:.2f} %",
        f"{figures['calibrated']['brier_score']:.4f}",
    ):
        assert shown in text.words
    for pair in figures["most_confused"]:
        assert pair["predicted"] in text.words
    assert len(text.sources) == 2 + min(40, (~one.correct).sum())


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        {"a": [], "b": {}, "c": ()},
        {"ein Käfer": [1, [2.5, None], {"x": True}], 'quoted "': "\n", "nan": [float("inf")]},
        {"far": {"away": {"a": "x" * 200, "b": list(range(300))}}},
        [[[1, 2], [3]], [{"a": 1}]],
    ],
)
def test_a_laid_out_file_says_what_json_says(content):
    assert json.loads(format_json(content)) == json.loads(json.dumps(content))


def test_evaluation_json_is_for_people_as_well(tmp_path):
    one = replace(network(), file=tmp_path / "checkpoints" / "best.pt")
    report.report([one])
    lines = [line.strip().rstrip(",") for line in (tmp_path / "evaluation.json").read_text().splitlines()]
    assert {str(row) for row in one.confusion.tolist()} <= set(lines), "a row of the matrix is a line"
    assert sum(line.startswith(f'"{name}": {{"images": ') for line in lines for name in one.classes) == len(one.classes)
    assert max(len(line) for line in lines if "{" in line) <= 120


def test_names_of_classes_are_text_and_not_markup(tmp_path):
    names = ["<script>alert(1)</script>", "a & b", "猫", "class 3", "x" * 60, "$5 \\alpha_", "%s {0}"]
    text = Text(page([network(classes=names)]))
    assert set(names) <= set(text.words)
    assert "script" not in text.open


def test_of_many_classes_those_that_do_worst_are_listed():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 100, 3000), rng.normal(0, 1, (3000, 100)).astype(np.float32)
    logits[np.arange(3000), labels] += np.linspace(0, 5, 100)[labels]
    one = replace(network(), classes=[f"{number}" for number in range(100)], labels=labels, logits=logits)
    rows = tables.class_rows(one)
    assert rows[0][0] == "the 20 classes with the lowest F1"
    assert len(rows) == 21
    f1 = [float(row[-1].removesuffix(" %")) for row in rows[1:]]
    assert f1 == sorted(f1)
    worst = sorted(one.figures["classes"].items(), key=lambda its: its[1]["f1"])[:20]
    assert [row[0] for row in rows[1:]] == [name for name, _ in worst]
    picture = confusion(one.confusion, one.classes)
    assert picture.shape[0] == picture.shape[1] > 900


def test_the_report_says_in_which_views_the_images_were_seen(tmp_path):
    one = replace(network(), tta="flip", file=tmp_path / "best.pt")
    report.report([one])
    assert json.loads((tmp_path / "evaluation.json").read_text())["tta"] == "flip"
    assert "flip" in Text((tmp_path / "report.html").read_text()).words
    assert ", test-time augmentation flip, " in next(tables.one(one))
    assert ", test-time augmentation flip;" in next(tables.several([one, one, ensemble([one, one])]))
    assert ensemble([one, network()]).tta == "that of each"


def test_without_held_out_images_there_is_no_temperature():
    one = replace(network(), val=None)
    assert one.figures["calibrated"] is None
    assert "with temperature" not in " ".join([*tables.one(one), page([one])])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_most_confident_errors_come_first(channels):
    one = network(channels=channels)
    mistakes = pictures.most_confident_errors(one)
    sure = [mistake.confidence for mistake in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert len(sure) == min(pictures.ERRORS, (~one.correct).sum())
    assert sure[0] == np.exp(metrics.log_probabilities(one.logits).max(1))[~one.correct].max()
    shown = [mistake.pixels.tobytes() for mistake in mistakes]
    for image, label, taken in zip(one.images.images, one.labels, one.logits.argmax(1), strict=True):
        if image.numpy().tobytes() in shown:
            mistake = mistakes[shown.index(image.numpy().tobytes())]
            assert (mistake.label, mistake.predicted) == (one.classes[label], one.classes[taken])
            assert label != taken
    assert {mistake.predicted for mistake in mistakes} <= set(Text(page([one])).words)


def test_networks_side_by_side():
    first, second = network(), replace(network("ties"), name="another", labels=network().labels)
    both = ensemble([first, second])
    assert both.figures["calibrated"]["fitted_on"] == 200
    assert both.parameters == 2468
    assert both.images_per_second == pytest.approx(500)
    beside = comparison(first, second)
    assert beside["difference"] == pytest.approx(second.correct.mean() - first.correct.mean())
    same = (first.logits.argmax(1) == second.logits.argmax(1)).mean()
    assert beside["agreement"] == pytest.approx(same)
    lines = list(tables.several([first, second, both]))
    assert f"{100 * beside['difference']:+.2f}" in lines[3]
    text = Text(page([first, second, both]))
    assert {"a network", "another", "ensemble of 2", "Confusion matrix: another"} <= set(text.words)


def test_an_ensemble_of_networks_with_other_held_out_images_has_no_temperature():
    first = network()
    second = replace(first, name="another", held_out=Images(first.held_out.images + 1, first.held_out.labels))
    assert ensemble([first, second]).figures["calibrated"] is None


@pytest.mark.parametrize("change", ["images", "labels", "number", "classes"])
def test_networks_are_only_compared_on_the_same_images(change):
    first = network()
    images, labels = first.images.images, first.images.labels
    others = {
        "images": {"images": Images(images.flip(0), labels)},
        "labels": {"images": Images(images, (labels + 1) % 7)},
        "number": {"images": Images(images[1:], labels[1:])},
        "classes": {"classes": [*first.classes[1:], first.classes[0]]},
    }
    with pytest.raises(NotComparable, match="a network and another were not tested on the same images"):
        report.report([first, replace(first, name="another", **others[change])])


def test_what_is_known_is_said_before_the_next_part_is_begun(tmp_path, caplog):
    """So that who stops what takes too long has at least what came before."""
    caplog.set_level("INFO")

    def slow_parts() -> Iterator[Part]:
        assert "accuracy" in caplog.text
        yield Part("first", {"is": 1}, ["what the first came to"], [])
        assert "what the first came to" in caplog.text
        yield Part("second", {"is": 2}, ["and the second"], [])

    report.report([replace(network(), file=tmp_path / "checkpoints" / "best.pt")], slow_parts())
    said = json.loads((tmp_path / "evaluation.json").read_text())
    assert (said["first"], said["second"]) == ({"is": 1}, {"is": 2})


def test_what_came_before_a_part_that_fails_is_kept(tmp_path):
    def parts() -> Iterator[Part]:
        yield Part("first", {"is": 1}, ["what the first came to"], [])
        raise RuntimeError("the second fails")

    with pytest.raises(RuntimeError, match="the second fails"):
        report.report([replace(network(), file=tmp_path / "checkpoints" / "best.pt")], parts())
    said = json.loads((tmp_path / "evaluation.json").read_text())
    assert said["first"] == {"is": 1}
    assert said["accuracy"] > 0
    assert (tmp_path / "report.html").exists()


def test_legends_show_names_as_they_are_written():
    """A dollar sign begins no formula, and a line under the first letter hides nothing."""
    names = ["a $x_{ $ b", "_old"]
    picture = pictures.reliability([replace(network(), name=name) for name in names])
    (panel,) = picture.axes
    assert [text.get_text().strip() for text in panel.get_legend().get_texts()] == names
    plot.write(picture, io.BytesIO(), dpi=50)


def test_two_runs_evaluated_together(train, tmp_path, monkeypatch, caplog, capsys):
    """From checkpoints to the files, in the directory that holds both."""
    caplog.set_level("INFO")
    runs = [train(f"seed={seed}", "trainer.max_epochs=1", "regularization=[ema]") for seed in (0, 1)]
    paths = [str(run.directory.path) for run in runs]
    networks = []
    for name, file in evaluate.find_checkpoints(paths).items():
        trained, images = rebuilt(read(file))
        networks.append(network_result.network_result(trained, images, file, name))
        assert len(networks[-1].val[1]) == 10
    report.report(networks)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    for run, network_ in zip(runs, networks, strict=True):
        assert content["networks"][network_.name]["accuracy"] == run.result["test_accuracy"]
    assert f"{runs[0].directory.path.name}" in networks[0].name
    assert "ensemble of 2" in caplog.text


def test_places_among_equal_logits_and_what_is_no_number():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, float("nan"), 1.0]])
    assert label_rank(logits, torch.tensor([0, 1, 0, 1])).tolist() == [0, 1, 2, 3]
    for kind in KINDS:
        values, labels = answers(kind)
        found = label_rank(torch.from_numpy(values), torch.from_numpy(labels))
        for count in (1, 5):
            assert (found < count).double().mean() == pytest.approx(metrics.top_accuracy(values, labels, count))
