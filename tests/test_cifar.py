"""CIFAR's files: read, downloaded from mirrors (a local server stands in for them), and refused when they are not."""

import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data import cifar, download
from data.cifar import CIFAR10, CIFAR100, cifar10, cifar100, unpickle
from data.dataset import DataError

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


def archive_bytes(kind: cifar.Archive) -> bytes:
    """A small archive with the layout of a published one."""
    fine = kind is CIFAR100
    names = {"fine_label_names": [f"f{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    files = {kind.meta: names if fine else {"label_names": [f"class{n}" for n in range(10)]}}
    for seed, name in enumerate([*kind.train, *kind.test]):
        labels = {"fine_labels": [seed, 99], "coarse_labels": [seed, 19]} if fine else {"labels": [seed, 9]}
        files[name] = {"data": pixels(2, seed), **labels, "filenames": ["a.png", "b.png"]}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            data = python2_pickle(content)
            info = tarfile.TarInfo(f"{kind.folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the server's `content` at any path; /cut stops halfway, /wrong alters a byte, /gone has nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        content = self.server.content
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        if self.path.startswith("/wrong"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: len(body) // 2] if self.path.startswith("/cut") else body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A local HTTP server: `.url` is its address, `.content` what it serves, `.requests` what was asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.content, server.requests = b"", []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch):
    """The server holds a small CIFAR-10 that the program takes for the published one."""
    server.content = archive_bytes(CIFAR10)
    monkeypatch.setattr(cifar, "CIFAR10", replace(CIFAR10, md5=hashlib.md5(server.content).hexdigest()))
    return server


def test_cifar10_is_downloaded_once_and_read(published, tmp_path):
    for _ in range(2):
        data = cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good/cifar-10-python.tar.gz"], **FACTS)
    assert len(published.requests) == 1
    assert data.classes == [f"class{n}" for n in range(10)]
    assert data.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test.labels.tolist() == [5, 9]
    expected = np.concatenate([pixels(2, seed) for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


@pytest.mark.parametrize(("labels", "expected", "classes"), [("fine", [0, 99], 100), ("coarse", [0, 19], 20)])
def test_cifar100_has_fine_and_coarse_labels(server, monkeypatch, tmp_path, labels, expected, classes):
    server.content = archive_bytes(CIFAR100)
    monkeypatch.setattr(cifar, "CIFAR100", replace(CIFAR100, md5=hashlib.md5(server.content).hexdigest()))
    data = cifar100(root=str(tmp_path), mirrors=[f"{server.url}/good"], labels=labels, **FACTS)
    assert data.train.labels.tolist() == expected
    assert len(data.classes) == classes


def test_an_archive_put_there_by_hand_is_used(published, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(published.content)
    assert len(cifar10(root=str(tmp_path), mirrors=[], **FACTS).train) == 10


def test_an_altered_archive_put_there_by_hand_is_refused(published, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(published.content + b"x")
    with pytest.raises(DataError, match="is not the published archive"):
        cifar10(root=str(tmp_path), mirrors=[], **FACTS)


def test_the_next_mirror_is_tried(published, tmp_path):
    mirrors = [f"{published.url}/{kind}/x" for kind in ("gone", "wrong", "cut", "good")]
    assert len(cifar10(root=str(tmp_path), mirrors=mirrors, **FACTS).train) == 10
    assert [path for path, _ in published.requests] == ["/gone/x", "/wrong/x", "/cut/x", "/good/x"]
    size = len(published.content)
    assert published.requests[-1][1] == f"bytes={size // 2}-", "what /cut sent was not kept"


def test_a_download_cut_off_goes_on_where_it_ended(published, tmp_path):
    with pytest.raises(DataError, match="the connection broke after"):
        cifar10(root=str(tmp_path), mirrors=[f"{published.url}/cut"], **FACTS)
    cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS)
    assert published.requests[-1] == ("/good", f"bytes={len(published.content) // 2}-")


def test_a_spoilt_beginning_is_thrown_away(published, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(b"rubbish")
    assert len(cifar10(root=str(tmp_path), mirrors=[f"{published.url}/good"], **FACTS).train) == 10


def test_without_network_the_message_says_what_to_do(published, tmp_path):
    with pytest.raises(DataError) as caught:
        cifar10(root=str(tmp_path), mirrors=["http://127.0.0.1:9/x", f"{published.url}/wrong"], **FACTS)
    message = str(caught.value)
    assert "\n" not in message
    assert "127.0.0.1:9: [Errno 111] Connection refused" in message
    assert "wrong checksum" in message
    assert f"Put cifar-10-python.tar.gz into {tmp_path}, or use dataset=shapes" in message
    assert not list(tmp_path.glob("*.gz"))


def test_a_server_that_knows_no_ranges_sends_all_again(published, tmp_path, monkeypatch):
    part = tmp_path / "file.part"
    part.write_bytes(b"some")
    monkeypatch.setattr(Mirror, "do_GET", _whole)
    download.fetch(tmp_path / "file", mirrors=[f"{published.url}/x"], md5=hashlib.md5(published.content).hexdigest())
    assert (tmp_path / "file").read_bytes() == published.content


def _whole(self):
    self.send_response(200)
    self.send_header("Content-Length", str(len(self.server.content)))
    self.end_headers()
    self.wfile.write(self.server.content)


class Bomb:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="has no place in a CIFAR file"):
        unpickle(tmp_path / "data_batch_1")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3]])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="is not a file of CIFAR's python version"):
        unpickle(tmp_path / "batch")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        unpickle(tmp_path / "data_batch_3")
