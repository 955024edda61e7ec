"""A user's own images: read whatever their format, size and names, and refused in one line that names the file."""

import os
import struct
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from data import folder as module
from data.dataset import DataError, split
from data.folder import folder, read_image


def write(path, color=(200, 100, 50), size=(32, 32), mode="RGB"):
    """An image file of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two classes, one of them with a name in another alphabet, images of several sizes and modes."""
    for split_name in ("train", "test"):
        write(tmp_path / split_name / "猫 cat" / "a.png")
        write(tmp_path / split_name / "猫 cat" / "b.JPG", size=(64, 48))
        write(tmp_path / split_name / "dog" / "a.jpeg", size=(10, 90))
        write(tmp_path / split_name / "dog" / "b.png", mode="L")
        write(tmp_path / split_name / "dog" / "c.png", mode="RGBA")
        (tmp_path / split_name / "dog" / "notes.txt").write_text("not an image")
    return tmp_path


def load(path, image_size=32):
    """The folder as the program reads it."""
    return folder(root=str(path), image_size=image_size, mean=None, std=None)


def test_folder_reads_all_sizes_and_modes(photos):
    data = load(photos)
    assert data.classes == ["dog", "猫 cat"]
    assert data.train.images.shape == (5, 3, 32, 32)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.train.images[3, :, 0, 0].tolist() == [200, 100, 50]
    assert load(photos, image_size=48).test.images.shape == (5, 3, 48, 48)


def test_folder_without_train(tmp_path):
    with pytest.raises(DataError, match="train is not a directory"):
        load(tmp_path)


def test_folder_with_a_class_that_is_only_in_test(photos):
    write(photos / "test" / "bird" / "a.png")
    with pytest.raises(DataError, match=r"test/bird is a class that is missing in .*train"):
        load(photos)


def test_folder_with_an_empty_class(photos):
    (photos / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"train/empty has no images"):
        load(photos)


def test_folder_with_a_broken_image(photos):
    (photos / "train" / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"dog/broken\.png cannot be read as an image"):
        load(photos)


def test_folder_with_one_class(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="has only one class, cat: at least two are needed"):
        folder(root=str(tmp_path), image_size=32, mean=None, std=None)


def test_images_of_other_modes(tmp_path):
    """Sixteen bits of grey keep their upper eight, transparent places are white, and a turned photograph is upright."""
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png", 32) == (ramp >> 8)[..., None]).all()

    Image.fromarray(np.zeros((32, 32, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", 32) == 255).all()

    upright = np.zeros((32, 32, 3), dtype=np.uint8)
    upright[:16] = 255
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png", 32) == upright).all()


def refused(path, image_size=32) -> str:
    """The one line in which a folder is refused, without the path up to it; nothing is warned of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(DataError) as caught:
            load(path, image_size)
    assert [str(warning.message) for warning in warned] == []
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path}/", "")


# Folders


def test_train_or_test_that_is_a_file(photos):
    os.rename(photos / "test", photos / "elsewhere")
    (photos / "test").write_text("")
    assert refused(photos).startswith("test is not a directory: dataset=folder needs train/<class>/*.png")


def test_a_root_that_is_not_there(tmp_path):
    assert refused(tmp_path / "nowhere").startswith("train is not a directory")
    assert refused("nul\0") == r"nul\x00/train cannot be read: embedded null byte"
    assert refused("~nobody-of-this-name") == "~nobody-of-this-name: there is no such home directory"


def test_train_without_folders(tmp_path):
    write(tmp_path / "train" / "a.png")
    assert refused(tmp_path).startswith("train has no folders, one per class: dataset=folder needs ")


def test_images_that_lie_too_deep(photos):
    directory = photos / "train" / "dog"
    (directory / "puppies").mkdir()
    for file in directory.glob("*.*"):
        file.rename(directory / "puppies" / file.name)
    assert refused(photos).startswith("train/dog has no images (.bmp, ")


def test_what_begins_with_a_dot_does_not_count(photos):
    """As macOS puts a file beside each file where it cannot keep elsewhere what it knows of it."""
    (photos / "train" / "dog" / "._a.png").write_bytes(b"\0\x05\x16\x07")
    (photos / "train" / ".cache").mkdir()
    assert len(load(photos).train) == 5


def test_links_are_followed(photos):
    write(photos / "elsewhere" / "a.png")
    (photos / "train" / "fox").symlink_to(photos / "elsewhere")
    (photos / "train" / "dog" / "z.png").symlink_to(photos / "elsewhere" / "a.png")
    assert load(photos).train.labels.tolist() == [0, 0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("target", ["loop", "nowhere"])
def test_a_class_that_is_a_link_to_itself_or_to_nothing_is_not_left_out(photos, target):
    (photos / "train" / "loop").symlink_to(target)
    assert refused(photos) == "train/loop is a broken link, or cannot be read"


def test_a_link_to_a_folder_above_is_read_like_any_other(photos):
    (photos / "train" / "loop").symlink_to(photos / "train", target_is_directory=True)
    assert refused(photos).startswith("train/loop has no images")


@pytest.mark.parametrize(
    ("target", "why"), [("loop.png", "Too many levels of symbolic links"), ("nowhere", "No such file or directory")]
)
def test_an_image_that_is_a_link_to_itself_or_to_nothing(photos, target, why):
    (photos / "train" / "dog" / "loop.png").symlink_to(target)
    assert refused(photos) == f"train/dog/loop.png cannot be read as an image: {why}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["train", "train/dog", "train/dog/a.jpeg"])
def test_what_may_not_be_read_is_named(photos, name):
    mode = (photos / name).stat().st_mode
    (photos / name).chmod(0)
    try:
        assert refused(photos).startswith(f"{name} cannot be read")
    finally:
        (photos / name).chmod(mode)


@pytest.mark.parametrize("name", ["train", "train/dog", "train/dog/a.jpeg"])
def test_what_the_system_will_not_read_is_named(photos, monkeypatch, name):
    """The same for root, who may read everything."""

    def denying(function):
        def run(path, *arguments, **options):
            if os.fspath(path) == str(photos / name):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path, *arguments, **options)

        return run

    monkeypatch.setattr(os, "listdir", denying(os.listdir))
    monkeypatch.setattr("builtins.open", denying(open))
    assert refused(photos) == f"{name} cannot be read{' as an image' if '.' in name else ''}: Permission denied"


@pytest.mark.parametrize(
    "names", [["a b", "c  d"], ["a\nb", "c\td"], ["猫", "собака"], ["é", "e\u0301"], ["-x", "'\"$(x)"]], ids=ascii
)
def test_classes_of_any_name(tmp_path, names):
    for part in ("train", "test"):
        for name in names:
            write(tmp_path / part / name / f"{name}.png")
    assert load(tmp_path).classes == sorted(names)
    (tmp_path / "train" / names[0] / "z.png").write_text("")
    shown = names[0].replace("\n", r"\n")
    said = f"train/{shown}/z.png cannot be read as an image: its format is not one of PNG, "
    assert refused(tmp_path).startswith(said)


def test_a_class_whose_name_is_no_text(photos):
    """No console could show it, and no file of results hold it."""
    os.mkdir(os.fsencode(photos / "train") + b"/\xff")
    assert refused(photos) == r"train/\udcff is not a valid class name: it is not UTF-8"


def test_a_file_whose_name_is_no_text_is_read(photos):
    source = photos / "train" / "dog" / "a.jpeg"
    os.rename(source, os.fsencode(source.parent) + b"/\xff.jpeg")
    assert len(load(photos).train) == 5


@pytest.mark.slow
def test_ten_thousand_classes(tmp_path):
    write(tmp_path / "image.png")
    for part in ("train", "test"):
        for number in range(10_000):
            (tmp_path / part / str(number)).mkdir(parents=True)
            os.link(tmp_path / "image.png", tmp_path / part / str(number) / "a.png")
    begun = time.monotonic()
    data = load(tmp_path)
    assert len(set(data.classes)) == len(data.train) == len(data.test) == 10_000
    assert data.train.labels.tolist() == list(range(10_000))
    split(data, val_size=0)
    assert time.monotonic() - begun < 60, "it takes a tenth of that on a machine with something else to do"


def test_more_images_than_memory_holds(photos):
    why = "train has 5 images: at 1000000x1000000 pixels they do not fit in memory"
    assert refused(photos, image_size=10**6) == why
    assert refused(photos, image_size=10**9) == why.replace("1000000", "1000000000")


# Images


def test_an_image_that_is_no_square_is_squeezed_and_not_cut(tmp_path):
    wide = np.zeros((10, 90, 3), np.uint8)
    wide[:, 80:] = 255  # of which a square from the middle would show nothing
    for name, pixels in (("wide", wide), ("tall", wide.transpose(1, 0, 2))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        seen = read_image(tmp_path / f"{name}.png", 32)
        seen = seen if name == "wide" else seen.transpose(1, 0, 2)
        assert (seen[:, :26] == 0).all()
        assert (seen[:, 31] > 200).all()


def test_the_first_of_several_bad_images_is_named_with_the_number_of_the_others(photos):
    for name in ("dog/d.png", "dog/a2.png", "猫 cat/a2.png"):
        (photos / "train" / name).write_bytes(b"")
    why = "its format is not one of PNG, JPEG, WEBP, BMP, PPM, TIFF, GIF"
    assert refused(photos) == (
        f"train/dog/a2.png cannot be read as an image: {why} (and 2 more images in train failed)"
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 1000), (1000, 3)])
def test_an_image_too_small_to_show_anything(photos, size):
    write(photos / "train" / "dog" / "small.png", size=size)
    assert refused(photos) == f"train/dog/small.png has {size[0]}x{size[1]} pixels: at least 4x4 are needed"


def test_the_smallest_images_and_long_ones(photos):
    write(photos / "train" / "dog" / "small.png", size=(4, 4))
    write(photos / "train" / "dog" / "long.png", size=(4, 4000))
    assert len(load(photos).train) == 7


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of 999 black bytes whose header promises this many pixels; more chunks come behind the header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((8192, 8193), "has 8192x8193 pixels: at most 67,108,864 are allowed"),
        ((9500, 9500), "has 9500x9500 pixels: at most 67,108,864 are allowed"),  # Pillow warns
        ((8, 1 << 30), "cannot be read as an image: Image size (8589934592 pixels) exceeds limit"),  # Pillow refuses
        ((60_000, 60_000), "cannot be read as an image: Image size (3600000000 pixels) exceeds limit"),
    ],
)
def test_an_image_that_decompresses_to_gigabytes_is_refused_by_its_header(tmp_path, monkeypatch, size, why):
    for name in ("train/a", "train/b", "test/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(png(*size))
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded.append)
    assert refused(tmp_path).startswith(f"train/a/0.png {why}")
    assert decoded == []


WAYS = {
    "png": {},
    "jpg": {"quality": 90},
    "progressive.jpg": {"progressive": True},
    "webp": {},
    "lossless.webp": {"lossless": True},
    "bmp": {},
    "ppm": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
}


def read_or_refused(file) -> np.ndarray | None:
    """The image, or None where it is refused in one line that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for all images of a folder together
        try:
            return read_image(file, 32)
        except DataError as error:
            message = str(error)
    assert message.startswith(f"{file} ")
    assert "\n" not in message
    return None


@pytest.mark.parametrize("way", WAYS)
def test_a_truncated_image_is_refused_or_lacks_nothing(tmp_path, way):
    """What is behind the pixels may be missing; never are other pixels read."""
    file, pixels = tmp_path / f"a.{way}", np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, **WAYS[way])
    content, whole, refusals = file.read_bytes(), read_image(file, 32), 0
    lengths = [*range(0, len(content) - 100, 37), len(content) - 20, len(content) - 1]
    for length in lengths:
        file.write_bytes(content[:length])
        image = read_or_refused(file)
        refusals += image is None
        assert image is None or np.array_equal(image, whole)
    assert refusals >= len(lengths) - 2


def test_images_spoilt_at_random_are_read_or_refused(tmp_path):
    """Whatever Pillow's readers raise, and they raise many things."""
    chance, outcomes = np.random.default_rng(0), []
    for way in WAYS:
        file = tmp_path / f"a.{way}"
        Image.fromarray(chance.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file, **WAYS[way])
        content = file.read_bytes()
        for _ in range(60):
            spoilt = bytearray(content)
            for place in chance.integers(0, min(len(content), chance.choice([40, 200, len(content)])), 4):
                spoilt[place] = chance.integers(256)
            file.write_bytes(spoilt)
            image = read_or_refused(file)
            outcomes.append(image is None)
            assert image is None or image.shape == (32, 32, 3)
    assert 50 < sum(outcomes) < len(outcomes) - 50


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(exploded) (w) file\n"


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", POSTSCRIPT, bytes(999)])
def test_a_file_that_is_no_image(photos, content):
    """Nor one that Pillow could read with the help of another program."""
    (photos / "train" / "dog" / "no.png").write_bytes(content)
    assert refused(photos).startswith("train/dog/no.png cannot be read as an image: its format is not one of PNG, ")


def test_an_image_counts_by_what_is_in_it(photos):
    Image.new("RGB", (32, 32), (1, 2, 3)).save(photos / "train" / "dog" / "0.png", "GIF")
    assert load(photos).train.images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_what_is_no_plain_file_is_not_waited_for(photos):
    file = photos / "train" / "dog" / "0.png"
    os.mkfifo(file)
    assert refused(photos) == "train/dog/0.png is not a plain file"
    file.unlink()
    file.mkdir()
    assert refused(photos) == "train/dog/0.png is not a plain file"
    file.rmdir()
    file.symlink_to("/dev/zero")
    assert refused(photos) == "train/dog/0.png is not a plain file"


def test_floating_point_pixels_are_refused(photos):
    Image.fromarray(np.zeros((32, 32), np.float32)).save(photos / "train" / "dog" / "0.tif")
    why = "floating-point pixels have no defined white level"
    assert refused(photos) == f"train/dog/0.tif cannot be read as an image: {why}"


def test_a_file_that_disappears_while_others_are_read(photos, monkeypatch):
    read = module.read_image

    def vanishing(file, image_size):
        if file.name == "b.png":
            file.unlink()
        return read(file, image_size)

    monkeypatch.setattr(module, "read_image", vanishing)
    assert refused(photos) == "train/dog/b.png cannot be read as an image: No such file or directory"


def test_a_class_that_disappears_after_it_was_listed(photos, monkeypatch):
    list_names = os.listdir

    def vanishing(path):
        if path == photos / "test":
            os.rename(photos / "train" / "dog", photos / "dog")
        return list_names(path)

    monkeypatch.setattr(os, "listdir", vanishing)
    assert refused(photos).startswith("train/dog is not a directory")


def test_warnings_of_pillow_are_not_passed_on(photos):
    """An animation without pictures is one of many things that Pillow finds worth a warning."""
    file = photos / "train" / "dog" / "0.png"
    file.write_bytes(png(26, 37, (b"acTL", bytes(8))))
    with pytest.warns(UserWarning, match="Invalid APNG"), Image.open(file):
        pass
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert (load(photos).train.images[0] == 0).all()
    assert warned == []


# The program


def test_the_program_says_it_in_one_line_and_leaves_nothing(photos, train, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    (photos / "train" / "dog" / "broken\nimage.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(SystemExit) as ended:
        train("dataset=folder", f"dataset.root={photos}", directory=tmp_path / "run")
    file = rf"{photos}/train/dog/broken\nimage.png"
    why = "its format is not one of PNG, JPEG, WEBP, BMP, PPM, TIFF, GIF"
    assert (ended.value.code, capsys.readouterr()) == (
        2,
        ("", f"train.py: {file} cannot be read as an image: {why}\n"),
    )
    assert not list((tmp_path / "run").rglob("*.*"))


def test_a_network_is_trained_on_classes_of_any_name(tmp_path, train, monkeypatch):
    root, names = tmp_path / "photos of\nall kinds", ["'\"${x}", "a\nb", "猫  cat"]
    for part in ("train", "test"):
        for name in names:
            for number in range(4):
                write(root / part / name / f"{number}.png")
    monkeypatch.setenv("PHOTOS", str(root))
    run = train("dataset=folder", "dataset.root=${oc.env:PHOTOS}", "dataset.val_size=0", "trainer.max_epochs=1")
    assert run.checkpoint()["classes"] == names
