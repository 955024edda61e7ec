"""CIFAR's archives and files: read, and refused when they are not what was published, or hostile."""

import gzip
import hashlib
import os
import pickle
import struct
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import cifar, plain_pickle
from data.cifar import CIFAR10, CIFAR100, cifar10, cifar100, read_batches, read_names, unpickle
from data.dataset import DataError
from tests.support.archives import FACTS, add, archive_bytes, archive_files, pixels, python2_pickle


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts an archive of CIFAR-10 where it is looked for, and lets the program take it for the published one."""

    def put(content: bytes) -> Path:
        monkeypatch.setattr(cifar, "CIFAR10", replace(CIFAR10, md5=hashlib.md5(content).hexdigest()))
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "cifar-10-python.tar.gz").write_bytes(content)
        return tmp_path / "root"

    return put


def refused(root: Path) -> str:
    """The one line in which an archive is refused, of which nothing is left then, within its place or without."""
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        cifar10(root=str(root), mirrors=[], **FACTS)
    assert [path for path in sorted(root.parent.rglob("*")) if path.suffix != ".lock"] == before
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{root}/")


# Archives


def test_cifar10_is_unpacked_and_read(put):
    root = put(archive_bytes(CIFAR10))
    data = cifar10(root=str(root), mirrors=[], **FACTS)
    assert data.classes == [f"class{n}" for n in range(10)]
    assert data.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test.labels.tolist() == [5, 9]
    expected = np.concatenate([pixels(2, seed) for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    files = {str(file.relative_to(root)): file.read_bytes() for file in root.glob("cifar-10-batches-py/*")}
    assert files == archive_files(CIFAR10)


@pytest.mark.parametrize(("labels", "expected", "classes"), [("fine", [0, 99], 100), ("coarse", [0, 19], 20)])
def test_cifar100_has_fine_and_coarse_labels(monkeypatch, tmp_path, labels, expected, classes):
    content = archive_bytes(CIFAR100)
    monkeypatch.setattr(cifar, "CIFAR100", replace(CIFAR100, md5=hashlib.md5(content).hexdigest()))
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(content)
    data = cifar100(root=str(tmp_path), mirrors=[], labels=labels, **FACTS)
    assert data.train.labels.tolist() == expected
    assert len(data.classes) == classes


def test_other_files_in_the_folder_are_left_where_they_are(put):
    """The published archives have some, too."""
    folder = "cifar-10-batches-py"
    root = put(
        archive_bytes(
            CIFAR10,
            lambda tar, _: (
                add(tar, folder, type=tarfile.DIRTYPE, mode=0o700)
                or add(tar, f"{folder}/readme.html", b"<meta>")
                or add(tar, f"{folder}/a/b", b"c")
            ),
        )
    )
    cifar10(root=str(root), mirrors=[], **FACTS)
    assert {file.name for file in (root / folder).iterdir()} == {*CIFAR10.train, *CIFAR10.test, CIFAR10.meta}


@pytest.mark.parametrize("spoil", [lambda b: b + b"x", lambda b: b[:-1], lambda b: b[:99] + b"x" + b[100:]])
def test_an_archive_that_is_not_the_published_one_is_refused(put, spoil):
    root = put(archive_bytes(CIFAR10))
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(spoil(archive.read_bytes()))
    assert refused(root).startswith("cifar-10-python.tar.gz is not the published archive (its MD5 is not ")


HOSTILE = {
    "above": lambda tar, files: add(tar, "../evil", b"x"),
    "above, through the folder": lambda tar, files: add(tar, "cifar-10-batches-py/../../evil", b"x"),
    "absolute": lambda tar, files: add(tar, "/tmp/evil", b"x"),
    "beside": lambda tar, files: add(tar, "evil", b"x"),
    "in a folder of a like name": lambda tar, files: add(tar, "cifar-10-batches-py2/evil", b"x"),
    "link": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link as the folder": lambda tar, files: add(tar, "cifar-10-batches-py", type=tarfile.SYMTYPE, linkname=".."),
    "link as a batch": lambda tar, files: add(
        tar, "cifar-10-batches-py/test_batch", type=tarfile.SYMTYPE, linkname="../../evil"
    ),
    "hard link": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "pipe": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.FIFOTYPE),
    "device": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.BLKTYPE, devmajor=8),
    "folder as a batch": lambda tar, files: add(tar, "cifar-10-batches-py/test_batch", type=tarfile.DIRTYPE),
    "twice": lambda tar, files: add(tar, "cifar-10-batches-py/test_batch", b"x"),
    "larger than the archive": lambda tar, files: add(tar, "cifar-10-batches-py/evil", size=1 << 40),
    "sparse": lambda tar, files: add(tar, "cifar-10-batches-py/evil", type=tarfile.GNUTYPE_SPARSE),
    "sparse, by its extended header": lambda tar, files: add(
        tar, "cifar-10-batches-py/evil", pax_headers={"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "0"}
    ),
    "of negative size": lambda tar, files: add(tar, "cifar-10-batches-py/evil", size=-1024),
    "a name with a line break": lambda tar, files: add(tar, "evil\n\x1b[2Jname", b"x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_an_archive_with_members_that_cifar_lacks_is_refused_though_its_checksum_is_right(put, monkeypatch, kind, form):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    assert refused(put(archive_bytes(CIFAR10, HOSTILE[kind]))).startswith(
        ("cifar-10-python.tar.gz holds what CIFAR does not: ", "cifar-10-python.tar.gz cannot be unpacked: ")
    )


def test_an_archive_that_lacks_a_file_is_refused(put):
    root = put(archive_bytes(CIFAR10, lambda tar, files: files.pop("cifar-10-batches-py/data_batch_3")))
    assert refused(root) == "cifar-10-python.tar.gz lacks cifar-10-batches-py/data_batch_3"


def test_an_archive_that_unpacks_to_gigabytes_is_refused(put, monkeypatch):
    """None of it is written, and no more of it is unpacked than may be."""
    monkeypatch.setattr(cifar, "MOST_UNPACKED_BYTES", 1 << 20)
    root = put(archive_bytes(CIFAR10, lambda tar, files: add(tar, "cifar-10-batches-py/zeros", bytes(1 << 25))))
    tracemalloc.start()
    try:
        assert refused(root) == "cifar-10-python.tar.gz holds more than 1,048,576 bytes"
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_any_of_cifar_is_refused(put, monkeypatch):
    monkeypatch.setattr(cifar, "MOST_FILE_BYTES", 10_000)
    root = put(archive_bytes(CIFAR10, lambda tar, files: add(tar, "cifar-10-batches-py/zeros", bytes(10_001))))
    assert refused(root) == "cifar-10-python.tar.gz holds what CIFAR does not: cifar-10-batches-py/zeros"


def extended_header() -> bytes:
    """A header that says that the next one has more to it, with nothing in it."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    return info.tobuf(tarfile.USTAR_FORMAT)


WHOLE = archive_bytes(CIFAR10)
NO_ARCHIVES = {
    "empty": b"",
    "text": b"<html>Log in first</html>",
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut at the end": WHOLE[:-4],
    "altered": WHOLE[:2000] + bytes(8) + WHOLE[2008:],
    "not packed": gzip.decompress(WHOLE),
    "packed text": gzip.compress(b"text" * 300),
    "packed nothing": gzip.compress(b""),
    "packed zeros": gzip.compress(bytes(10_240)),
    "cut, packed": gzip.compress(gzip.decompress(WHOLE)[:20_000]),
    "half a header": gzip.compress(gzip.decompress(WHOLE)[:700]),
    "headers for headers": gzip.compress(extended_header() * 3000),
}


@pytest.mark.parametrize("kind", NO_ARCHIVES)
def test_what_is_no_archive_is_refused_though_its_checksum_is_right(put, kind):
    assert refused(put(NO_ARCHIVES[kind])).startswith(
        ("cifar-10-python.tar.gz cannot be unpacked: ", "cifar-10-python.tar.gz lacks ")
    )


def test_a_disk_that_is_full_while_unpacking_leaves_nothing(put, monkeypatch):
    root = put(archive_bytes(CIFAR10))
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        return Path("/dev/full").write_bytes(content) if path.name == "test_batch" else write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert refused(root) == f"cifar-10-python.tar.gz cannot be kept and unpacked in {root}: {os.strerror(28)}"


def test_a_link_in_place_of_what_a_killed_process_left_is_not_followed(put, tmp_path):
    root = put(archive_bytes(CIFAR10))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (root / "cifar-10-batches-py.part").symlink_to(tmp_path / "precious")
    assert "cannot be kept and unpacked" in refused(root)


# Pickles


class Bomb:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


class SystemBomb:
    """The same, by the shell."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("bomb", [Bomb, SystemBomb])
def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, bomb, protocol):
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate([bomb(), {"data": bomb()}, {bomb(): 1}, [bomb()]]):
        Path(f"batch{number}").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match=rf"batch{number} is not a file of CIFAR's python version"):
            unpickle(Path(f"batch{number}"))
    assert not Path("exploded").exists()
    pickle.loads(Path("batch0").read_bytes())
    assert Path("exploded").exists(), "these pickles do nothing"


def test_what_a_pickle_would_call_is_named(tmp_path):
    (tmp_path / "batch").write_bytes(b"cos\nsystem\n(U\x04truetR.")
    with pytest.raises(DataError, match=r"os\.system has no place in it"):
        unpickle(tmp_path / "batch")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_that_python_3_has_written_are_read_too(tmp_path, protocol):
    images = pixels(3, 0)
    for number, data in enumerate([images, np.asfortranarray(images)]):
        (tmp_path / f"batch{number}").write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2]}, protocol=protocol))
    data = read_batches([tmp_path / "batch0", tmp_path / "batch1"], "labels", 3)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(data.images[:3], torch.from_numpy(images.reshape(-1, 3, 32, 32)))
    assert torch.equal(data.images[3:], data.images[:3])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(max_size=100), inner),
)


@settings(max_examples=30)
@given(PLAIN, st.sampled_from([3, 4]))
def test_plain_data_are_read_as_pickle_reads_them(value, protocol):
    assert plain_pickle.load(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3], b"\x80\x02N."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch is not a file of CIFAR's python version"):
        unpickle(tmp_path / "batch")


def nested(depth: int) -> bytes:
    """A tuple in a tuple in a tuple."""
    return b"N" + b"\x85" * depth


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
UINT8 = b"cnumpy\ndtype\n(U\x02u1tR"
CRAFTED = {
    # Python's unpickler fills 16 GB, or overflows the stack, or asks for as much memory as it is told.
    "a large memo index": (b"\x80\x02Nr\xff\xff\xff\x3f.", "it holds a NoneType"),
    "a nested key": (b"}" + nested(200_000) + b"Ns.", "tuple where a name should be"),
    "a nested value": (b"}U\x04data" + nested(200_000) + b"s.", "it has no array as data"),
    "a length of gigabytes": (b"\x80\x04B" + struct.pack("<I", (1 << 32) - 1) + b"x.", "it ends too early"),
    "a length of exabytes": (
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        "the instruction b'\\x8e' has no place in it",
    ),
    "a frame of exabytes": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"]", "damaged before byte 12"),
    "a negative length": (b"T" + struct.pack("<i", -5) + b"xxxxx.", "it ends too early"),
    "a number of many digits": (
        b"\x8b" + struct.pack("<i", 1 << 30) + b"1.",
        "the instruction b'\\x8b' has no place in it",
    ),
    "an array of terabytes": (
        b"}U\x04data" + ARRAY + b"(K\x01J\xff\xff\xff\x7fM\xff\xff\x86" + UINT8 + b"\x89U\x00tbs.",
        "an array of 0 bytes in a shape of another size",
    ),
    "an array of no bytes and many rows": (
        b"}U\x04data" + ARRAY + b"(K\x01J\xff\xff\xff\x7fK\x00\x86" + UINT8 + b"\x89U\x00tbs.",
        "its images are [2147483647, 0] in place of [N, 3072]",
    ),
    "an array of many dimensions": (
        b"}U\x04data" + ARRAY + b"(K\x01(" + b"K\x01" * 100 + b"t" + UINT8 + b"\x89U\x01xtbs.",
        "an array of 1 bytes in a shape of another size",
    ),
    "an array without state": (b"}U\x04data" + ARRAY + b"s.", "it has no array as data"),
    "an array of objects": (
        b"}U\x04data" + ARRAY + b"(K\x01K\x01\x85cnumpy\ndtype\n(U\x02O8tR\x89]Nat bs.",
        "an array of O8 in place of bytes",
    ),
    "an array in an array": (b"}U\x04data" + ARRAY + ARRAY + b"bs.", "damaged before byte"),
    "an array made by its class": (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "numpy.ndarray has no place in it"),
    "a type of fields": (b"cnumpy\ndtype\n(]tR.", "list where a name should be"),
    "a state for a list": (b"]}b.", "list where an array or its type should be"),
    "a state for a name": (b"c_codecs\nencode\n}b.", "Name where an array or its type should be"),
    "a call of a text": (b"U\x01a)R.", "it calls a bytes"),
    "a call without arguments": (b"cnumpy\ndtype\n)R.", "damaged before byte 15"),
    "a call with a list": (b"c_codecs\nencode\n]R.", "list where arguments should be"),
    "an encoding": (
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x04zliptR.",
        "a text in an encoding that is not latin1, or again and again",
    ),
    "a text that is not latin": (
        b"c_codecs\nencode\n(X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1tR.",
        "damaged before byte",
    ),
    "a text encoded often": (
        b"(X\x64\x00\x00\x00" + b"a" * 100 + b"q\x00" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 99,
        "a text in an encoding that is not latin1, or again and again",
    ),
    "a text that is no UTF-8": (b"X\x02\x00\x00\x00\xc3\x28.", "damaged before byte 7"),
    "a long key": (b"}T" + struct.pack("<i", 1000) + b"a" * 1000 + b"Ns.", "1,000 signs where a name should be"),
    "a number as key": (b"}K\x01K\x01s.", "int where a name should be"),
    "a list as key": (b"}]K\x01s.", "list where a name should be"),
    "a key without value": (b"}(U\x01au.", "damaged before byte 6"),
    "an append to a dict": (b"}K\x01a.", "dict where a list should be"),
    "an item of a list": (b"]U\x01aK\x01s.", "list where a dict should be"),
    "a mark that is not there": (b"e.", "damaged before byte 1"),
    "an item that is not there": (b"a.", "damaged before byte 1"),
    "a name without end": (b"c" + b"a" * 10_000, "damaged before byte 1"),
    "what was never kept": (b"h\x07.", "damaged before byte 2"),
    "nothing": (b".", "damaged before byte 1"),
    "many instructions": (b"N" * (plain_pickle.MOST_INSTRUCTIONS + 1), "more than 2,000,000 instructions"),
    "an instruction for extensions": (b"\x82\x01.", "the instruction b'\\x82' has no place in it"),
    "an instruction for objects elsewhere": (b"Pname\n.", "the instruction b'P' has no place in it"),
    "a set": (b"\x8f.", "the instruction b'\\x8f' has no place in it"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_pickle_is_refused_at_once(tmp_path, kind):
    content, why = CRAFTED[kind]
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_batches([tmp_path / "batch"], "labels", 10)
    assert str(caught.value).startswith(f"{tmp_path}/batch is not a file of CIFAR's python version: {why}")


def batch(**changes: Any) -> dict[str, Any]:
    """A batch file's content with other values under some keys; None takes a key away."""
    content = {"data": pixels(2, 0), "labels": [0, 9], "batch_label": "testing"} | changes
    return {key: value for key, value in content.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (batch(data=None), "it has no array as data"),
        (batch(data=[1, 2]), "it has no array as data"),
        (batch(data=pixels(2, 0)[:, :-1]), "its images are [2, 3071] in place of [N, 3072]"),
        (batch(data=pixels(2, 0).reshape(-1)), "its images are [6144] in place of [N, 3072]"),
        (batch(data=pixels(2, 0).reshape(2, 3, 32, 32)), "its images are [2, 3, 32, 32] in place of [N, 3072]"),
        (batch(data=pixels(2, 0)[:0], labels=[]), "its images are [0, 3072] in place of [N, 3072]"),
        (batch(data=pixels(2, 0).astype(np.float32)), "an array of f4 in place of bytes"),
        (batch(data=pixels(2, 0).astype(np.int8)), "an array of i1 in place of bytes"),
        (batch(data=np.array([None, "x"])), "an array of O8 in place of bytes"),
        (batch(labels=None), "it has no list of whole numbers as labels"),
        (batch(labels="01"), "it has no list of whole numbers as labels"),
        (batch(labels=[0, "1"]), "it has no list of whole numbers as labels"),
        (batch(labels=[0, True]), "it has no list of whole numbers as labels"),
        (batch(labels=[0, [1]]), "it has no list of whole numbers as labels"),
        (batch(labels=np.array([0, 1], np.uint8)), "it has no list of whole numbers as labels"),
        (batch(labels=[0]), "it has 1 labels for 2 images"),
        (batch(labels=[0, 1, 2]), "it has 3 labels for 2 images"),
        (batch(labels=[]), "it has 0 labels for 2 images"),
        (batch(labels=[0, 10]), "one of its labels is 10, of 10 classes"),
        (batch(labels=[-1, 9]), "one of its labels is -1, of 10 classes"),
        ([batch()], "it holds a list"),
        ("data", "it holds a bytes"),
        (pixels(2, 0), "it holds a ByteArray"),
    ],
    ids=str,
)
def test_a_batch_that_is_not_as_it_should_be_is_refused(tmp_path, content, why):
    good, bad = tmp_path / "data_batch_1", tmp_path / "data_batch_2"
    good.write_bytes(python2_pickle(batch()))
    bad.write_bytes(python2_pickle(content))
    with pytest.raises(DataError) as caught:
        read_batches([good, bad], "labels", 10)
    line = f"{bad} is not a file of CIFAR's python version: {why}; delete {tmp_path}, so that it is unpacked again"
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"names": list("abc")}, "it has no list of label_names for 10 classes"),
        ({"label_names": "abcdefghij"}, "it has no list of label_names for 10 classes"),
        ({"label_names": list("abc")}, "it has 3 label_names for 10 classes"),
        ({"label_names": list("abcdefghijk")}, "it has 11 label_names for 10 classes"),
        ({"label_names": [*"abcdefghi", 1]}, "in label_names it has int where a name should be"),
        ({"label_names": [*"abcdefghi", "j" * 101]}, "in label_names it has 101 signs where a name should be"),
        (["label_names"], "it holds a list"),
    ],
    ids=str,
)
def test_names_that_are_not_as_they_should_be_are_refused(tmp_path, content, why):
    (tmp_path / "batches.meta").write_bytes(python2_pickle(content))
    with pytest.raises(DataError) as caught:
        read_names(tmp_path / "batches.meta", "label_names", 10)
    assert f"batches.meta is not a file of CIFAR's python version: {why}; delete " in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        unpickle(tmp_path / "data_batch_3")


def test_what_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zeros"):
        with pytest.raises(DataError, match=f"{name} is not a file of CIFAR's python version: it is no plain file"):
            unpickle(tmp_path / name)


def test_a_link_that_leads_to_itself_is_one_line(tmp_path):
    (tmp_path / "batch").symlink_to("batch")
    with pytest.raises(DataError, match="batch cannot be read: Too many levels of symbolic links"):
        unpickle(tmp_path / "batch")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "batch").write_bytes(python2_pickle(batch()))
    (tmp_path / "batch").chmod(0)
    with pytest.raises(DataError, match="batch cannot be read: Permission denied"):
        unpickle(tmp_path / "batch")


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "batch", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        DataError, match=r"batch is not a file of CIFAR's python version: it has 1,099,511,627,776 bytes"
    ):
        unpickle(tmp_path / "batch")
