"""A user's own images: what they are taken for, whatever files they come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from engine.build import from_checkpoint, objects
from engine.inference.predict import BATCH_SIZE, SHOWN, Prediction, batches, contact_sheet, image_files, load_image
from tests.support.commands import answer
from tests.support.runs import Run, composed


def pixels(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """An image of chance, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(file: Path, image: Image.Image, **options: Any) -> None:
    """An image in its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def predict(run: Run, *overrides: str) -> list[dict[str, Any]]:
    """What evaluate.py writes of images."""
    evaluate.main(composed(f"checkpoint={run.directory.path}", "device=cpu", *overrides, config_name="evaluate"))
    return [json.loads(line) for line in (run.directory.path / "predictions.jsonl").read_text().splitlines()]


def test_images_of_any_kind(finished, tmp_path, monkeypatch, caplog, capsys):
    """Every one is answered as the network answers its pixels; broken ones are named; no data set is read."""
    caplog.set_level("INFO")
    run = finished
    photos, plain = tmp_path / "photos", pixels(0)
    save(photos / "plain.png", Image.fromarray(plain))
    turned = Image.Exif()
    turned[0x0112] = 6  # is to be turned to the right by a quarter
    save(photos / "a" / "turned.png", Image.fromarray(np.rot90(plain)), exif=turned)
    grey = Image.fromarray(plain[..., 0])
    save(photos / "a" / "grey.png", grey)
    save(photos / "a" / "b" / "clear.png", Image.new("RGBA", (40, 50), (255, 0, 0, 0)))
    first, second = (Image.new("P", (32, 32), number) for number in (0, 1))
    for frame in (first, second):
        frame.putpalette([9, 99, 199, 255, 255, 255])
    save(photos / "moving.GIF", first, save_all=True, append_images=[second])
    save(photos / ".hidden.png", Image.fromarray(plain))
    (photos / "broken\x1b[31m.png").write_bytes(b"\x89PNG")
    (photos / "notes.txt").write_text("no image")
    monkeypatch.setattr(objects, "splits", lambda *_, **__: pytest.fail("the data set was read"))

    found = predict(run, f"predict={photos}", "eval_batch_size=2")
    names = ["moving.GIF", "plain.png", "a/grey.png", "a/turned.png", "a/b/clear.png"]
    assert [line["file"] for line in found] == [str(photos / name) for name in names]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert r"broken\x1b[31m.png cannot be read as an image" in said
    checkpoint = run.checkpoint("best")
    model = from_checkpoint.rebuild(checkpoint, weights=None, device="cpu").model.eval()
    mean, std = (np.array(checkpoint[name]) for name in ("mean", "std"))
    seen = {
        "moving.GIF": np.full((32, 32, 3), (9, 99, 199)),
        "plain.png": plain,
        "a/grey.png": np.repeat(plain[..., :1], 3, 2),
        "a/turned.png": plain,
        "a/b/clear.png": np.full((32, 32, 3), 255),
    }
    for line, name in zip(found, names, strict=True):
        normalised = torch.tensor((seen[name] / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        shares = model(normalised).softmax(1)[0].detach()
        best = shares.argsort(descending=True)[:5]
        assert [entry[0] for entry in line["top5"]] == [checkpoint["classes"][label] for label in best]
        assert [entry[1] for entry in line["top5"]] == pytest.approx(shares[best].tolist(), abs=1e-5)
        assert [line["class"], line["probability"]] == line["top5"][0]
        assert f"{line['file']}: {line['class']} {100 * line['probability']:.2f} % (" in caplog.text
    assert "5 images, 1 more could not be read; written to" in caplog.text
    with Image.open(run.directory.path / "predictions.png") as sheet:
        assert sheet.width > 5 * 100

    single = predict(run, f"predict=[{photos / 'plain.png'},{photos / 'plain.png'}]", "tta=flip")
    assert [line["file"] for line in single] == [str(photos / "plain.png")]
    assert single[0]["top5"] != found[1]["top5"]
    assert capsys.readouterr().err == ""

    with pytest.raises(SystemExit) as exit_:
        predict(run, f"predict={photos / 'notes.txt'}")
    assert exit_.value.code == 2
    named, ended = capsys.readouterr().err.splitlines()
    assert "notes.txt cannot be read as an image: its format is not one of PNG" in named
    assert ended.endswith("notes.txt: there is no image that can be read")


def test_many_images_come_in_batches(tmp_path):
    for number in range(7):
        save(tmp_path / f"{number}.png", Image.new("RGB", (9, 7), (number, 0, 0)))
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(b"")
    found = list(batches(image_files([str(tmp_path)]), 32, batch_size=3))
    assert [len(batch) for batch in found] == [3, 1]
    assert [int(one.pixels[0, 0, 0]) for batch in found for one in batch] == [0, 1, 2, 6]
    assert all(one.pixels.shape == (32, 32, 3) for batch in found for one in batch)
    assert BATCH_SIZE * 3 * 1024 * 1024 * 4 < 1 << 30  # the largest images of dataset=folder, in fp32


def test_a_pattern_is_what_it_matches(tmp_path):
    names = ["a1.png", "a2.png", "b.png", "c?.png"]
    for name in names:
        save(tmp_path / name, Image.new("RGB", (32, 32)))
    found = image_files([f"{tmp_path}/a*.png", f"{tmp_path}/c?.png", f"{tmp_path}/?.png", f"{tmp_path}/a2.png"])
    assert [file.name for file in found] == ["a1.png", "a2.png", "c?.png", "b.png"], "each once, in the order given"


def test_links_lead_nowhere_twice(tmp_path):
    save(tmp_path / "a" / "1.png", Image.new("RGB", (9, 7)))
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert image_files([str(tmp_path), str(tmp_path / "a" / "1.png")]) == [tmp_path / "a" / "1.png"]


@pytest.mark.parametrize("size", [(4, 4000), (3000, 20), (5, 5)])
def test_a_thumbnail_keeps_the_shape_of_an_image(size, tmp_path):
    save(tmp_path / "0.png", Image.new("RGB", size))
    shown = load_image(tmp_path / "0.png", 32).thumbnail
    assert max(shown.size) == 160
    assert shown.size == pytest.approx([160 * side / max(size) for side in size], abs=1)


@pytest.mark.slow
def test_the_contact_sheet_says_what_it_leaves_out(tmp_path):
    names = ["猫", "$5 \\alpha_", "x" * 60, "cat"]
    few = [Prediction(Path("0.png"), [(name, 0.25)]) for name in names]
    thumbnails = [Image.new("RGB", (160, 80))] * len(few)
    sheet = contact_sheet(few, thumbnails)
    texts = [text.get_text() for axes in sheet.axes for text in axes.texts]
    assert [text.split("\n")[1:] for text in texts[::3]] == [["猫", "25.00 %"], ["cat", "25.00 %"]]
    assert all(len(line) <= 18 for text in texts for line in text.split("\n"))
    assert all(one.file.name in text for one, text in zip(few, texts, strict=True) if len(one.file.name) <= 18)
    assert sheet.get_suptitle() == ""
    many = contact_sheet(few * 20, thumbnails * (SHOWN // 4))
    assert sum(len(axes.images) for axes in many.axes) == SHOWN
    assert many.get_suptitle() == "the first 60 of 80 images"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("predict=nowhere", "predict=nowhere: no such file or directory"),
        ("predict=[one.pt,nowhere]", "predict=nowhere: no such file or directory"),
        ("predict=*.png", "predict=*.png: no such file or directory"),
        ("predict=. every_tta=true", "every_tta= and predict= cannot be combined"),
        ("predict=. root=.", "root= and predict= cannot be combined"),
        ("predict=. export=onnx", "predict= and export= cannot be combined"),
        ("predict=. checkpoint=[one.pt,two.pt]", "predict=: takes one checkpoint"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("one.pt", "two.pt"):
        torch.save({}, tmp_path / name)
    assert why in answer("evaluate.py", f"checkpoint=one.pt {arguments}", monkeypatch, capsys)
