"""Small archives with the layout of CIFAR's published ones."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import replace

import numpy as np

from data import cifar
from data.cifar import CIFAR100

FACTS = {"mean": [0.5] * 3, "std": [0.2] * 3}


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 with numpy 1 wrote, as the published files are: byte strings, and numpy's old places."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, value):
        value = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{value.__name__}\n".encode())

    dispatch[bytes] = dispatch[str] = save_text
    dispatch[type] = dispatch[type(len)] = dispatch[type(lambda: 0)] = save_global


def python2_pickle(content) -> bytes:
    """Content as a file of the published archives holds it."""
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def pixels(count: int, seed: int) -> np.ndarray:
    """Random images as rows of bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def archive_files(kind: cifar.Archive) -> dict[str, bytes]:
    """Names and contents of the files in a small archive with the layout of a published one."""
    fine = kind is CIFAR100
    names = {"fine_label_names": [f"f{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    files = {name: names if fine else {"label_names": [f"class{n}" for n in range(10)]} for name in kind.meta}
    for seed, name in enumerate([*kind.train, *kind.test]):
        labels = {"fine_labels": [seed, 99], "coarse_labels": [seed, 19]} if fine else {"labels": [seed, 9]}
        files[name] = {"data": pixels(2, seed), **labels, "filenames": ["a.png", "b.png"]}
    return {f"{kind.folder}/{name}": python2_pickle(content) for name, content in files.items()}


def archive_bytes(kind: cifar.Archive) -> bytes:
    """A small archive with the layout of a published one; like those, it holds a file that nothing reads."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in (archive_files(kind) | {f"{kind.folder}/readme.html": b"<meta>"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def as_published(kind: cifar.Archive, content: bytes) -> cifar.Archive:
    """An archive with the MD5s of the small one in place of those of the published one."""
    md5s = {name.partition("/")[2]: md5(data) for name, data in archive_files(kind).items()}
    parts = {part: {name: md5s[name] for name in getattr(kind, part)} for part in ("train", "test", "meta")}
    return replace(kind, md5=md5(content), **parts)


def md5(content: bytes) -> str:
    """MD5 as 32 hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
